"""``ambient-cni-agent uninstall``: takes everything of ours off the node, and looks whether it is.

``--dry-run`` only lists. Both work without the agent, and without the API server too.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable

import trio

from ambient.api.errors import MeshError, SettingsError
from ambient.kube.io.client import KubeClient
from cni_plugin.io import cleanup
from cni_plugin.io.agent_client import EVENT_SOCKET
from cni_plugin.io.cleanup import Trace
from cni_plugin.settings import Settings


async def dry_run(settings: Settings, stopping: trio.Event) -> None:
    """List what ``uninstall`` would remove."""
    _check(settings)
    found = await _survey(settings)
    for trace in found:
        _say(f"would remove {trace}")
    if not found:
        _say("the node is clean: nothing of the node agent is on it")


async def uninstall(settings: Settings, stopping: trio.Event) -> None:
    """Remove it. Raises MeshError where something stays, and names it."""
    _check(settings)
    _refuse_while_served(settings)
    found = await _survey(settings)
    await trio.to_thread.run_sync(cleanup.remove_installation, settings)
    await cleanup.remove_from_pods(settings, _say)
    await _with_kube(settings, cleanup.remove_annotations)
    left = await _survey(settings)
    for trace in found:
        if trace not in left:
            _say(f"removed {trace}")
    if left:
        raise MeshError(
            f"still on the node: {'; '.join(map(str, left))}",
            hint="run it again; what stays then is put back by another program",
        )
    _say("the node is clean: nothing of the node agent is on it")


async def _survey(settings: Settings) -> list[Trace]:
    def on_node() -> list[Trace]:
        return [*cleanup.of_installation(settings), *cleanup.of_pods(settings)]

    found = await trio.to_thread.run_sync(on_node)

    async def look(settings: Settings, kube: KubeClient) -> None:
        for pod in await cleanup.annotated(settings, kube):
            found.append(Trace("annotation", f"{pod.metadata.namespace}/{pod.metadata.name}"))

    await _with_kube(settings, look)
    return found


async def _with_kube(
    settings: Settings, task: Callable[[Settings, KubeClient], Awaitable[None]]
) -> None:
    """Without an API server the node is cleaned all the same; the annotations then stay."""
    try:
        async with KubeClient.connect(settings.kubeconfig) as kube:
            await task(settings, kube)
    except MeshError as error:
        _say(f"the pods' annotations are not looked at: {error}")


def _check(settings: Settings) -> None:
    if not settings.cni_net_dir:
        raise SettingsError(
            "the environment variable CNI_NET_DIR is not set",
            hint="set it to the folder whose CNI configuration has ambient-cni in it, or to auto",
        )


def _refuse_while_served(settings: Settings) -> None:
    path = f"{settings.cni_agent_run_dir}/{EVENT_SOCKET}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == 0:
            raise MeshError(
                f"a node agent runs and serves {path}; it would install everything again",
                hint="delete its DaemonSet (it then cleans up by itself), or stop it first",
            )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
