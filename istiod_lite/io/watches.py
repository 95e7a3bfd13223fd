"""Objects in: one watch a kind, staged as they come, settled once they are quiet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from ambient.kube.core import resources
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.changes import Changes
from istiod_lite.core.index import Index
from istiod_lite.core.inputs import key_of

WATCHED: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.SERVICE_ACCOUNTS,
    resources.GATEWAYS,
    resources.AUTHORIZATION_POLICIES,
    resources.PEER_AUTHENTICATIONS,
    resources.VIRTUAL_SERVICES,
    resources.DESTINATION_RULES,
    resources.HTTP_ROUTES,
    resources.SERVICES,
    resources.ENDPOINT_SLICES,
    resources.PODS,
)
assert {one.kind for one in WATCHED} == set(Index.KINDS)

log = get_logger("index")


class Watches:
    """Keeps the index as the API server is; ``publish`` gets what changed, debounced."""

    def __init__(
        self,
        kube: KubeClient,
        index: Index,
        publish: Callable[[Changes, float], None],
        *,
        quiet_s: float,
        longest_s: float,
    ) -> None:
        self._kube = kube
        self._index = index
        self._publish = publish
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._changed = trio.Event()
        self._unsynced = {one.kind for one in WATCHED}
        self._all_listed = trio.Event()

    @property
    def missing(self) -> tuple[str, ...]:
        """Kinds that have not been listed yet."""
        return tuple(sorted(self._unsynced))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started once everything was listed and published; then until cancelled."""
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            for resource in WATCHED:
                nursery.start_soon(self._follow, resource)
            await self._all_listed.wait()
            self._changed = trio.Event()
            self._publish(self._index.settle(), started)
            log.info(
                Event.INDEX_SYNCED,
                workloads=len(self._index.workloads),
                services=len(self._index.services),
                policies=len(self._index.authorizations),
                seconds=round(time.monotonic() - started, 3),
            )
            task_status.started()
            while True:
                await self._changed.wait()
                first = time.monotonic()
                await self._until_quiet()
                self._publish(self._index.settle(), first)

    async def _until_quiet(self) -> None:
        with trio.move_on_after(self._longest_s):
            while self._changed.is_set():
                self._changed = trio.Event()
                with trio.move_on_after(self._quiet_s):
                    await self._changed.wait()
        self._changed = trio.Event()

    async def _follow(self, resource: resources.Resource) -> None:
        async with follow(self._kube, resource) as events:
            async for event in events:
                match event.kind:
                    case EventKind.SYNCED:
                        self._unsynced.discard(resource.kind)
                        if not self._unsynced:
                            self._all_listed.set()
                    case EventKind.DELETED:
                        self._index.stage_removal(resource.kind, key_of(event.object))
                        self._changed.set()
                    case _:
                        self._index.stage(resource.kind, event.object)
                        self._changed.set()
