"""Dedicated mode: one workload, whose network namespace is our own; no node agent."""

from __future__ import annotations

import trio

from ambient.api.errors import MeshError
from ambient.net.core.wire import Add
from ambient.net.io.netns import OwnNetns
from ztunnel.io.pods import Pods, PodStartError
from ztunnel.settings import Settings


def workload_of(settings: Settings) -> Add:
    """The workload that ``PROXY_WORKLOAD_INFO`` names. Raises MeshError where it names none."""
    parts = settings.proxy_workload_info.split("/")
    if len(parts) != 3 or not all(parts):
        raise MeshError(
            f"PROXY_WORKLOAD_INFO={settings.proxy_workload_info!r} names no workload",
            hint="PROXY_MODE=dedicated needs it: namespace/name/service-account",
        )
    namespace, name, account = parts
    return Add(f"{namespace}/{name}", name, namespace, account)


async def serve_workload(settings: Settings, pods: Pods) -> None:
    """Serve it until cancelled. Raises MeshError where it cannot be served."""
    info = workload_of(settings)
    pods.begin_session()
    try:
        await pods.add(info, OwnNetns.open_own())
    except PodStartError as error:
        raise MeshError(str(error)) from None
    pods.snapshot_sent()
    await trio.sleep_forever()
