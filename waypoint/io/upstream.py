"""Connections to endpoints, kept between exchanges.

A kept connection has carried whole exchanges only. Whether its server has closed it meanwhile is
looked at when it is taken and once a second; neither needs a task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from waypoint.core.codec import Codec
from waypoint.core.host import Target
from waypoint.io.duplex import Duplex, drop_now, quiet
from waypoint.io.http1_client import Http1Stream
from waypoint.io.http2_client import Http2Client, Http2Stream
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
        self._links: dict[Key, list[Http2Client]] = {}
        self._dialling: dict[Key, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    def active(self, key: Key) -> int:
        """How many exchanges and connections an endpoint has at the moment."""
        return self._active.get(key, 0)

    async def open(
        self,
        target: Target,
        codec: Codec = Codec.HTTP1,
        *,
        fresh: bool = False,
        careful: bool = False,
    ) -> UpstreamStream:
        """A stream for one exchange. Raises UpstreamResetError.

        ``fresh`` asks for a new connection; ``careful`` for one that is new or in lively use.
        """
        if codec is Codec.HTTP2:
            return await self._http2_stream(target, fresh)
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

    async def _http2_stream(self, target: Target, fresh: bool) -> Http2Stream:
        """A stream on a shared connection; one dial at a time for each endpoint."""
        links = self._links.setdefault(target.key, [])
        found = None if fresh else _with_room(links)
        if found is None:
            async with self._dialling.setdefault(target.key, trio.Lock()):
                found = None if fresh else _with_room(links)
                if found is None:
                    found = await self._new_link(target, links)
        self._count(target.key, 1)
        return Http2Stream(found, lambda: self._count(target.key, -1))

    async def _new_link(self, target: Target, links: list[Http2Client]) -> Http2Client:
        link = Http2Client(await self._dial(target))
        if self._nursery is None:
            raise RuntimeError("the upstreams do not run")
        links.append(link)

        async def carry() -> None:
            try:
                await link.carry()
            finally:
                links.remove(link)

        self._nursery.start_soon(carry)
        return link

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
        """Carry HTTP/2, and age idle connections, until cancelled; then close them."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while True:
                    await trio.sleep(LOOK_S)
                    self._look_after_idle()
        finally:
            self._nursery = None
            self.close()

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            _, kept = self._idle.popitem()
            for connection in kept:
                drop_now(connection.stream)
        for links in self._links.values():
            for link in list(links):
                if not link.busy:
                    link.lose("it was idle")

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
        for key, links in list(self._links.items()):
            for link in list(links):
                if not link.busy and link.idle_since_s < too_old:
                    link.lose("it was idle")
            if not links and not self._dialling[key].locked():
                del self._links[key], self._dialling[key]


def _with_room(links: list[Http2Client]) -> Http2Client | None:
    return next((link for link in links if link.room > 0), None)
