"""Sends what has to be told to collectors: in batches, with a bound, without anybody waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.grpc import GrpcStatus
from waypoint.io.mesh_call import CallError

FLUSH_S: Final = 1.0
BATCH: Final = 512
MAX_WAITING: Final = 8192
"""Items that wait for one collector; more are dropped."""
PAUSES_S: Final = (1.0, 2.0)
"""Before a batch is sent once more, where the collector may take it then (OTLP)."""
PASSING: Final = frozenset(
    {
        GrpcStatus.CANCELLED,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.RESOURCE_EXHAUSTED,
        GrpcStatus.ABORTED,
        GrpcStatus.OUT_OF_RANGE,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    }
)
"""Statuses after which a client may try again (OTLP)."""

C = TypeVar("C")
I = TypeVar("I")  # noqa: E741 - an item
log = get_logger("waypoint")


class BatchExport(Generic[C, I]):
    """Items of one kind for several collectors; these do not wait for each other.

    ``send`` raises CallError, and answers how many items of the batch were not taken.
    ``run`` has to be running.
    """

    def __init__(
        self, name: Callable[[C], str], send: Callable[[C, list[I]], Awaitable[int]], dropped: Event
    ) -> None:
        self._name = name
        self._send = send
        self._event = dropped
        self._waiting: dict[C, list[I]] = {}
        self._busy: set[C] = set()
        self._some = trio.Event()
        self.sent = 0
        self.dropped = 0

    def add(self, collector: C, item: I) -> None:
        """Report an item some time soon."""
        waiting = self._waiting.setdefault(collector, [])
        if len(waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        waiting.append(item)
        self._some.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._some.wait()
                await trio.sleep(FLUSH_S)
                self._some = trio.Event()
                for collector in list(self._waiting):
                    if collector not in self._busy:
                        self._busy.add(collector)
                        nursery.start_soon(self._empty, collector, PAUSES_S)

    async def flush(self) -> None:
        """Send everything that waits, once; what is not taken is dropped."""
        async with trio.open_nursery() as nursery:
            for collector in list(self._waiting):
                nursery.start_soon(self._empty, collector, ())

    async def _empty(self, collector: C, pauses_s: tuple[float, ...]) -> None:
        try:
            while waiting := self._waiting.get(collector):
                batch = waiting[:BATCH]
                del waiting[:BATCH]
                await self._deliver(collector, batch, pauses_s)
            self._waiting.pop(collector, None)
        finally:
            self._busy.discard(collector)

    async def _deliver(self, collector: C, batch: list[I], pauses_s: tuple[float, ...]) -> None:
        lost, error = len(batch), ""
        for pause_s in (*pauses_s, None):
            try:
                lost = await self._send(collector, batch)
            except CallError as failed:
                error = str(failed)
                if pause_s is None or failed.status not in PASSING:
                    break
                await trio.sleep(pause_s)
            else:
                break
        self.sent += len(batch) - lost
        self.dropped += lost
        if error and lost:
            log.warning(self._event, provider=self._name(collector), count=lost, error=error)
