"""Connections to endpoints, kept between exchanges.

A kept connection has carried whole exchanges only. Whether its server has closed it meanwhile is
looked at when it is taken and once a second; neither needs a task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from waypoint.core.host import Target
from waypoint.io.duplex import Duplex, drop_now, quiet
from waypoint.io.http1_client import Http1Stream
from waypoint.io.upstream_stream import UpstreamStream

IDLE_S: Final = 60.0
"""How long a connection is kept without an exchange."""
CAREFUL_S: Final = 1.0
"""A request that must not be sent twice takes no connection that was idle for longer: its server
may be about to close it (the shortest keep-alive timeouts in use are 2 s and 5 s)."""
LOOK_S: Final = 1.0
"""How often idle connections are looked at."""
MAX_IDLE: Final = 128
"""Kept connections for each endpoint."""

Key = tuple[str, int]
Dial = Callable[[Target], Awaitable[Duplex]]
"""Opens a new stream to an endpoint. Raises UpstreamResetError."""


class Connection:
    """A connection to an endpoint that carries one exchange at a time."""

    __slots__ = ("exchanges", "idle_since_s", "stream", "target")

    def __init__(self, target: Target, stream: Duplex) -> None:
        self.target = target
        self.stream = stream
        self.exchanges = 0
        self.idle_since_s = 0.0


class Upstreams:
    """The connections to all endpoints; ``run`` has to be running."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._idle: dict[Key, list[Connection]] = {}
        self._active: dict[Key, int] = {}
        self._some_idle = trio.Event()

    def active(self, key: Key) -> int:
        """How many exchanges and connections an endpoint has at the moment."""
        return self._active.get(key, 0)

    async def open(
        self, target: Target, *, fresh: bool = False, careful: bool = False
    ) -> UpstreamStream:
        """A stream for one exchange. Raises UpstreamResetError.

        ``fresh`` asks for a new connection; ``careful`` for one that is new or in lively use.
        """
        connection = None if fresh else self._kept(target.key, careful)
        if connection is None:
            connection = Connection(target, await self.connect(target))
        else:
            self._count(target.key, 1)
        found = connection

        def over(usable: bool) -> None:
            self._count(target.key, -1)
            if usable:
                self._keep(found)

        found.exchanges += 1
        return Http1Stream(found.stream, reused=found.exchanges > 1, over=over)

    async def connect(self, target: Target) -> Duplex:
        """A new stream of bytes, counted as active until ``left``. Raises UpstreamResetError."""
        self._count(target.key, 1)
        try:
            return await self._dial(target)
        except BaseException:
            self._count(target.key, -1)
            raise

    def left(self, target: Target) -> None:
        """What ``connect`` gave is over."""
        self._count(target.key, -1)

    def _count(self, key: Key, change: int) -> None:
        now = self._active.get(key, 0) + change
        if now:
            self._active[key] = now
        else:
            del self._active[key]

    def _keep(self, connection: Connection) -> None:
        connection.idle_since_s = trio.current_time()
        self._idle.setdefault(connection.target.key, []).append(connection)
        self._some_idle.set()

    def _kept(self, key: Key, careful: bool) -> Connection | None:
        """The connection that was used last: the likeliest to be alive."""
        kept = self._idle.get(key)
        while kept:
            connection = kept.pop()
            if careful and trio.current_time() - connection.idle_since_s > CAREFUL_S:
                kept.append(connection)
                return None
            if quiet(connection.stream):
                return connection
            drop_now(connection.stream)
        return None

    async def run(self) -> None:
        """Age idle connections until cancelled; then close them."""
        try:
            while True:
                await self._some_idle.wait()
                await trio.sleep(LOOK_S)
                self._look_after_idle()
        finally:
            self.close()

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            _, kept = self._idle.popitem()
            for connection in kept:
                drop_now(connection.stream)

    def _look_after_idle(self) -> None:
        too_old = trio.current_time() - IDLE_S
        for key, kept in list(self._idle.items()):
            good: list[Connection] = []
            for number, connection in enumerate(reversed(kept)):
                young = number < MAX_IDLE and connection.idle_since_s > too_old
                if young and quiet(connection.stream):
                    good.append(connection)
                else:
                    drop_now(connection.stream)
            kept[:] = reversed(good)
            if not kept:
                del self._idle[key]
        if not self._idle:
            self._some_idle = trio.Event()
