"""Ask the API server about the DaemonSet that runs this agent."""

from __future__ import annotations

from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import DAEMON_SETS, NODES
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.departure import Answer, Look, Verdict, decide
from cni_plugin.io import cleanup
from cni_plugin.settings import Settings

_PATIENCE_S: Final = 5.0
"""For all questions when the agent ends: the node may be going down."""
_FORBIDDEN: Final = (401, 403)

log = get_logger("agent")


async def look(settings: Settings, kube: KubeClient) -> Look:
    """What the API server says now."""
    name, namespace = settings.daemonset_name, settings.system_namespace
    try:
        with trio.fail_after(_PATIENCE_S):
            return Look(Answer.FOUND, await kube.get(DAEMON_SETS, name, namespace))
    except NotFound:
        return Look(Answer.NOT_FOUND)
    except KubeError as error:
        return Look(Answer.FORBIDDEN if error.status in _FORBIDDEN else Answer.SILENT)
    except (MeshError, trio.TooSlowError):
        return Look(Answer.SILENT)


async def leave(settings: Settings, kube: KubeClient, at_start: Answer) -> None:
    """The agent ends: clean the node up where the mesh is taken off it."""
    verdict = Verdict(True, "AMBIENT_DISABLE_SAFE_UPGRADE is set")
    if not settings.ambient_disable_safe_upgrade:
        now = await look(settings, kube)
        verdict = decide(at_start, now, await _node_labels(settings, kube))
    if not verdict.clean:
        log.info(Event.NODE_KEPT, reason=verdict.reason)
        return
    try:
        await trio.to_thread.run_sync(cleanup.remove_installation, settings)
        left = await trio.to_thread.run_sync(cleanup.of_installation, settings)
    except MeshError as error:
        log.warning(Event.NODE_NOT_CLEAN, error=str(error), hint=error.hint)
        return
    if left:
        log.warning(Event.NODE_NOT_CLEAN, left=[str(trace) for trace in left])
    else:
        log.info(Event.NODE_CLEANED, reason=verdict.reason)


async def _node_labels(settings: Settings, kube: KubeClient) -> dict[str, str] | None:
    try:
        with trio.fail_after(_PATIENCE_S):
            node = await kube.get(NODES, settings.node_name)
    except (MeshError, trio.TooSlowError):
        return None
    return node["metadata"].get("labels") or {}
