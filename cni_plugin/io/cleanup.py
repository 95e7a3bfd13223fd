"""What the agent has put on a node: list it, take it away, and look again whether all is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.objects import REDIRECTION_ANNOTATION, Pod, decode
from ambient.kube.core.resources import PODS
from ambient.kube.io.client import KubeClient
from ambient.net.core import host_rules, rules
from ambient.net.io import bpf_programs, branch_routes, nft, tunnel_flows
from ambient.net.io.netns import Netns
from ambient.net.io.socket_map import remove_socket_map
from cni_plugin.io import guest_files, install, kube_reports, node_socket_map, records, starter
from cni_plugin.io.agent_client import EVENT_SOCKET
from cni_plugin.io.host_probes import node_netns
from cni_plugin.io.installer import find_folders
from cni_plugin.io.redirection import Redirection
from cni_plugin.settings import Settings

DRAIN_S: Final = 30.0
"""How long connections through the tunnel may go on after the redirects have gone."""
DRAIN_LOOK_S: Final = 0.5


class Trace(NamedTuple):
    """Something of ours on the node."""

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}"


def of_installation(settings: Settings) -> list[Trace]:
    """The plugin's files and the node's rules. Raises MeshError."""
    folders = find_folders(settings)
    found = []
    if folders.net_dir:
        paths = [*install.traces(folders.net_dir), *starter.traces(folders.bin_dir)]
        found += [Trace("plugin", path) for path in paths]
    if os.path.isdir(folder := node_socket_map.folder_of(settings)):
        found.append(Trace("socket map", folder))
    with node_netns(settings) as netns:
        tables = nft.read(netns).tables
        found += [Trace("routing rule of the node", rule) for rule in branch_routes.present(netns)]
    return found + [Trace("rules of the node", f"table inet {table.name}") for table in tables]


def remove_installation(settings: Settings) -> None:
    """Undo it; pods stay as they are. Raises MeshError."""
    folders = find_folders(settings)
    if folders.net_dir:
        install.uninstall(folders.net_dir)
        starter.uninstall(folders.bin_dir)
    remove_socket_map(node_socket_map.folder_of(settings))
    with node_netns(settings) as netns:
        nft.apply(netns, host_rules.ABSENT)
        branch_routes.keep(netns, ())


def of_pods(settings: Settings) -> list[Trace]:
    """Rules in network namespaces of pods, and the agent's files. Raises MeshError."""
    found = []
    with _namespaces(settings) as namespaces, _backends(settings) as backends:
        for place, netns in namespaces:
            if backends.present(netns):
                found.append(Trace("rules of a pod", place))
    if os.path.isdir(settings.bpf_dir):
        found.append(Trace("eBPF programs", settings.bpf_dir))
    return found + [Trace("files of the agent", path) for path in _files(settings)]


async def remove_from_pods(settings: Settings, say: Callable[[str], None]) -> None:
    """New connections go direct at once; those in the tunnel have ``DRAIN_S`` to end."""
    with _namespaces(settings) as namespaces, _backends(settings) as backends:
        ours = [(place, netns) for place, netns in namespaces if backends.present(netns)]
        for _, netns in ours:
            backends.drain(netns, rules.Options())
        with trio.move_on_after(DRAIN_S):
            while open_ones := sum(tunnel_flows.count(netns) for _, netns in ours):
                say(f"waiting for {open_ones} connections in the tunnel to end")
                await trio.sleep(DRAIN_LOOK_S)
        for _, netns in ours:
            backends.clear(netns)
    bpf_programs.remove_programs(settings.bpf_dir)
    _remove_files(settings)


async def annotated(settings: Settings, kube: KubeClient) -> list[Pod]:
    """Pods of the node that are said to be in the mesh. Raises KubeError, UnavailableError."""
    selector = f"spec.nodeName={settings.node_name}"
    pods = [decode(each, Pod) for each in await kube.list(PODS, field_selector=selector)]
    return [pod for pod in pods if pod.metadata.annotation(REDIRECTION_ANNOTATION) is not None]


async def remove_annotations(settings: Settings, kube: KubeClient) -> None:
    """The control plane then tells nobody any more that these pods speak HBONE."""
    for pod in await annotated(settings, kube):
        await kube_reports.annotate(kube, pod, None)


def _files(settings: Settings) -> list[str]:
    run_dir = settings.cni_agent_run_dir
    folders = (records.folder(run_dir), guest_files.folder(run_dir))
    paths = (*folders, f"{run_dir}/{EVENT_SOCKET}", settings.ztunnel_uds_address)
    return [path for path in paths if os.path.lexists(path)]


def _remove_files(settings: Settings) -> None:
    for path in _files(settings):
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextmanager
def _backends(settings: Settings) -> Iterator[Redirection]:
    """For taking away only: nothing has to be compiled for it."""
    backends = Redirection(settings)
    backends.open(wanted=False)
    try:
        yield backends
    finally:
        backends.close()


@contextmanager
def _namespaces(settings: Settings) -> Iterator[list[tuple[str, Netns]]]:
    """Every network namespace of the node but its own, once: by record, then by process."""
    with ExitStack() as stack:
        own = stack.enter_context(node_netns(settings))
        seen, found = {own.key}, []
        for place, path in _places(settings):
            try:
                netns = Netns.open(path)
            except OSError:
                continue  # it ended meanwhile
            if netns.key in seen:
                netns.close()
                continue
            seen.add(netns.key)
            found.append((place, stack.enter_context(netns)))
        yield found


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    """What to call it, and where it is."""
    for record in records.read_all(settings.cni_agent_run_dir):
        yield f"{record.namespace}/{record.name} ({record.netns})", record.netns
    try:
        processes = sorted(name for name in os.listdir(settings.proc_dir) if name.isdigit())
    except OSError as error:
        raise MeshError(
            f"cannot read {settings.proc_dir}: {error.strerror}",
            hint="PROC_DIR must be the node's /proc",
        ) from None
    for process in processes:
        yield f"process {process}", f"{settings.proc_dir}/{process}/ns/net"
