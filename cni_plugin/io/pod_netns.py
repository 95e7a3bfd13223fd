"""Which network namespace a pod has: by the plugin's record, else by the node's processes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from ambient.api.address import IPAddress, canonical
from ambient.kube.core.objects import Pod
from ambient.net.io.netns import Netns
from cni_plugin.io import discover, guest_files, records
from cni_plugin.io.guest_files import is_guest
from cni_plugin.settings import Settings

Key = tuple[int, int]
"""Device and inode: which namespace it is, by whatever name."""


def open_same(paths: Sequence[str], key: Key | None) -> tuple[str, Netns] | None:
    """The first path that leads to this namespace, or, without a key, to any; None where all lead
    to others. Raises OSError where none leads anywhere.
    """
    refusal: OSError | None = None
    others = False
    for path in paths:
        try:
            netns = Netns.open(path)
        except OSError as error:
            refusal = refusal or error
            continue
        if key is None or netns.key == key:
            return path, netns
        netns.close()
        others = True
    if refusal is not None and not others:
        raise refusal
    return None


def named(settings: Settings, path: str, key: Key | None) -> Netns | None:
    """The namespace that the runtime names; None where the name leads to another one by now.

    Below /proc, as cri-dockerd has it, it is a process of the node, which the agent's container
    sees in another folder; for an agent that is no container, in this one. Raises OSError.
    """
    inside = path.removeprefix("/proc/")
    paths = [path] if inside == path else [f"{settings.proc_dir}/{inside}", path]
    found = open_same(paths, key)
    return None if found is None else found[1]


def recorded(settings: Settings, pod: Pod) -> Netns | None:
    """By the plugin's record, if the path still leads to the same namespace."""
    metadata, run_dir = pod.metadata, settings.cni_agent_run_dir
    if is_guest(metadata.uid):
        guest = guest_files.read(run_dir, metadata.uid)
        return None if guest is None else _same(settings, guest.netns, (guest.device, guest.inode))
    own = records.read(run_dir, metadata.uid)
    for record in (own,) if own is not None else records.read_all(run_dir):
        by_name = (record.namespace, record.name) == (metadata.namespace, metadata.name)
        if record.uid != metadata.uid and (record.uid or not by_name):
            continue
        netns = _same(settings, record.netns, (record.device, record.inode))
        if netns is not None:
            return netns
    return None


def _same(settings: Settings, path: str, key: Key) -> Netns | None:
    try:
        return named(settings, path, key)
    except OSError:
        return None


def discovered(settings: Settings, pod: Pod) -> Netns | None:
    """By the pod's processes and addresses."""
    ips = frozenset(canonical(ip_address(ip)) for ip in pod.ips)
    return discover.find(settings.proc_dir, {pod.metadata.uid: ips}).get(pod.metadata.uid)


def belongs(netns: Netns, ips: frozenset[IPAddress]) -> bool:
    """Whether the namespace has one of the pod's addresses; true while those are not known."""
    return not ips or bool(discover.addresses(netns) & ips)
