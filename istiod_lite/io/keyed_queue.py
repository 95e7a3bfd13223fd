"""Work by key for the writer: each key once, however often it was named, and again on failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

RETRY_S: Final = 2.0
CONFLICT_S: Final = 0.1
"""After a conflict the watch brings the newer object soon."""
LONGEST_S: Final = 60.0

K = TypeVar("K")

log = get_logger("writer")


class KeyedQueue(Generic[K]):
    """``work`` is called for each key that was named; at most ``parallel`` at a time."""

    def __init__(
        self, what: str, work: Callable[[K], Awaitable[None]], *, parallel: int = 1
    ) -> None:
        self._what = what
        self._work = work
        self._parallel = parallel
        self._open: dict[K, None] = {}
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._wake = trio.Event()

    def add(self, keys: Iterable[K]) -> None:
        """Look at these."""
        self._open |= dict.fromkeys(keys)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A key is never worked on twice at once."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                for key in [key for key in self._open if key not in self._running]:
                    if len(self._running) >= self._parallel:
                        break
                    del self._open[key]
                    self._running.add(key)
                    nursery.start_soon(self._one, key, nursery)

    async def _one(self, key: K, nursery: trio.Nursery) -> None:
        try:
            await self._work(key)
            self._failures.pop(key, None)
        except MeshError as error:
            times = self._failures[key] = self._failures.get(key, 0) + 1
            first = CONFLICT_S if isinstance(error, Conflict) else RETRY_S
            wait_s = min(first * 2 ** min(times - 1, 10), LONGEST_S)
            log.warning(
                Event.CONTROLLER_RETRY,
                what=f"{self._what} {key}",
                error=str(error),
                hint=error.hint,
                wait_s=wait_s,
            )
            nursery.start_soon(self._again, key, wait_s)
        finally:
            self._running.discard(key)
            self._wake.set()

    async def _again(self, key: K, wait_s: float) -> None:
        await trio.sleep(wait_s)
        self.add((key,))
