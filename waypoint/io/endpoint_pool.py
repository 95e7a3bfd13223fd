"""The connections of a cluster to one of its endpoints, within the cluster's limits.

A kept connection has carried whole exchanges only. Whether its server has closed it meanwhile is
looked at when it is taken and once a second; neither needs a task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ambient.api.address import HostPort
from waypoint.core.cluster import Cluster
from waypoint.core.codec import Codec
from waypoint.core.host import Host, Target
from waypoint.core.message import Request
from waypoint.core.objects import Json
from waypoint.core.opening import Ends, Opening
from waypoint.core.reset import Reset
from waypoint.core.traffic_policy import ClusterSettings
from waypoint.io.duplex import Duplex, Inlet, drop_now, quiet
from waypoint.io.fiber import in_task, now_s
from waypoint.io.http1_client import Http1Stream
from waypoint.io.http2_client import Http2Client, Http2Stream
from waypoint.io.upstream_stream import UpstreamResetError

IDLE_S: Final = 60.0
"""How long a connection is kept without an exchange, where nothing else is configured."""
CAREFUL_S: Final = 1.0
"""A request that must not be sent twice takes no connection that was idle for longer: its server
may be about to close it (the shortest keep-alive timeouts in use are 2 s and 5 s)."""
MAX_IDLE: Final = 128
"""Kept connections for each endpoint."""

ALPN: Final = {Codec.HTTP1: "http/1.1", Codec.HTTP2: "h2"}
Dial = Callable[[Target, ClusterSettings, Opening], Awaitable[Duplex]]
"""Opens a new stream to an endpoint. Raises UpstreamResetError."""


class Connection:
    """A connection to an endpoint that carries one exchange at a time."""

    __slots__ = ("exchanges", "idle_since_s", "inlet", "opened_s", "stream", "tls")

    def __init__(self, stream: Duplex, tls: Json | None) -> None:
        self.stream = stream
        self.inlet = Inlet(stream)
        self.tls = tls
        self.exchanges = 0
        self.opened_s = self.idle_since_s = now_s()


class EndpointPool:
    """Connections of ``cluster`` to ``host``."""

    def __init__(self, cluster: Cluster, host: Host, dial: Dial) -> None:
        self._cluster = cluster
        self._host = host
        self._dial = dial
        self._idle: list[Connection] = []
        self._links: list[Http2Client] = []
        self._tls: dict[Http2Client, Json | None] = {}
        """What each connection began with: other settings need another one."""
        self._linking = trio.Lock()
        self._open = 0
        self._waiting: deque[trio.Event] = deque()
        self.active = 0
        """Exchanges and raw connections that are under way."""

    @property
    def idle(self) -> bool:
        """Is there nothing here to look after?"""
        return not (self._open or self.active or self._waiting)

    @property
    def kept(self) -> int:
        """Connections that wait for an exchange."""
        return len(self._idle)

    # HTTP/1.1

    async def http1(
        self, request: Request | None = None, *, fresh: bool, careful: bool
    ) -> Http1Stream:
        """A stream for one exchange. Raises UpstreamResetError."""
        found = None if fresh else self.on_kept(careful)
        if found is not None:
            return found
        connection = None
        try:
            async with in_task():
                connection = await self._admitted(careful, request)
        except BaseException:  # also a limit that was reached just behind the dial
            if connection is not None:
                self._drop(connection)
            raise
        return self._exchange_on(connection)

    def on_kept(self, careful: bool) -> Http1Stream | None:
        """The same, where a connection is there that waits for an exchange."""
        connection = self._kept(careful) if self._idle else None
        return None if connection is None else self._exchange_on(connection)

    def _exchange_on(self, connection: Connection) -> Http1Stream:
        self.active += 1
        connection.exchanges += 1

        def over(usable: bool) -> None:
            self.active -= 1
            if usable and self._may_stay(connection):
                self._keep(connection)
            else:
                self._drop(connection)

        return Http1Stream(
            connection.stream, connection.inlet, reused=connection.exchanges > 1, over=over
        )

    async def _admitted(self, careful: bool, request: Request | None) -> Connection:
        """A new connection, or one that somebody gives back while the cluster has its most."""
        cluster = self._cluster
        self._enter_queue()
        try:
            while cluster.connected and self._open:
                freed = trio.Event()
                self._waiting.append(freed)
                try:
                    await freed.wait()
                except trio.Cancelled:
                    self._leave(freed)
                    raise
                connection = self._kept(careful)
                if connection is not None:
                    return connection
            opening = self._opening(Codec.HTTP1, request)
            return Connection(await self._dialled(opening), cluster.settings.tls)
        finally:
            cluster.count(pending=-1)

    def _enter_queue(self) -> None:
        """Raises UpstreamResetError where too many wait already (``http1MaxPendingRequests``)."""
        if self._cluster.queue_full:
            raise UpstreamResetError(Reset.OVERFLOW)
        self._cluster.count(pending=1)

    def _leave(self, freed: trio.Event) -> None:
        """Whoever stops waiting passes on what it may have been given."""
        if freed in self._waiting:
            self._waiting.remove(freed)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    @property
    def _told(self) -> bool:
        """Is each connection of one client, which its endpoint is told of?"""
        return self._cluster.settings.proxy_protocol is not None

    def _opening(self, codec: Codec | None, request: Request | None) -> Opening:
        ends = None
        if self._told and request is not None:
            ends = Ends(HostPort(str(request.peer.ip), request.peer.port), request.local)
        return Opening("" if codec is None else ALPN[codec], ends, raw=codec is None)

    async def _dialled(self, opening: Opening) -> Duplex:
        """A new stream, counted until ``_gone``. Raises UpstreamResetError."""
        self._count(1)
        try:
            return await self._dial(self._host.target, self._cluster.settings, opening)
        except BaseException:
            self._gone()
            raise

    def _count(self, change: int) -> None:
        self._open += change
        self._cluster.count(connections=change)

    def _gone(self) -> None:
        self._count(-1)
        self._wake()

    def _may_stay(self, connection: Connection) -> bool:
        pool = self._cluster.settings.pool
        if pool.max_requests_per_connection and (
            connection.exchanges >= pool.max_requests_per_connection
        ):
            return False
        longest_s = pool.max_connection_s
        settings = self._cluster.settings
        if connection.tls != settings.tls or settings.proxy_protocol is not None:
            return False
        return not self._host.gone and (
            longest_s is None or now_s() - connection.opened_s < longest_s
        )

    def _keep(self, connection: Connection) -> None:
        connection.idle_since_s = now_s()
        self._idle.append(connection)
        if self._waiting:
            self._wake()

    def _drop(self, connection: Connection) -> None:
        drop_now(connection.stream)
        self._gone()

    def _kept(self, careful: bool) -> Connection | None:
        """The connection that was used last: the likeliest to be alive."""
        while self._idle:
            connection = self._idle.pop()
            if self._told:
                self._drop(connection)
                continue
            if careful and now_s() - connection.idle_since_s > CAREFUL_S:
                self._idle.append(connection)
                return None
            if quiet(connection.stream) and connection.tls == self._cluster.settings.tls:
                return connection
            self._drop(connection)
        return None

    # HTTP/2

    async def http2(
        self, nursery: trio.Nursery, request: Request | None = None, *, fresh: bool
    ) -> Http2Stream:
        """A stream on a shared connection; one dial at a time. Raises UpstreamResetError."""
        stream = None if fresh else self.on_shared()
        if stream is not None:
            return stream
        self._enter_queue()
        try:
            async with in_task(), self._linking:
                link = None if fresh else self._with_room()
                if link is None:
                    link = await self._new_link(nursery, request)
        finally:
            self._cluster.count(pending=-1)
        self.active += 1
        return Http2Stream(link, self._over)

    def on_shared(self) -> Http2Stream | None:
        """The same, where a connection is there that takes another exchange."""
        link = self._with_room()
        if link is None:
            return None
        self.active += 1
        return Http2Stream(link, self._over)

    def _over(self) -> None:
        self.active -= 1

    def _with_room(self) -> Http2Client | None:
        for link in self._links:  # a generator costs as much as the test
            if self._room(link) > 0:
                return link
        return None

    def _room(self, link: Http2Client) -> int:
        """How many more exchanges a connection takes, within the configured limits."""
        settings = self._cluster.settings
        if self._tls[link] != settings.tls or settings.proxy_protocol is not None:
            return 0
        pool = settings.pool
        room = 0 if link.lost else link.http2.room - link.reserved
        if pool.max_concurrent_streams:
            room = min(room, pool.max_concurrent_streams - link.streams)
        if pool.max_requests_per_connection:
            room = min(room, pool.max_requests_per_connection - link.exchanges)
        longest_s = pool.max_connection_s
        if longest_s is not None and now_s() - link.opened_s >= longest_s:
            return 0
        return room

    async def _new_link(self, nursery: trio.Nursery, request: Request | None) -> Http2Client:
        link = Http2Client(await self._dialled(self._opening(Codec.HTTP2, request)))
        self._tls[link] = self._cluster.settings.tls
        self._links.append(link)

        async def carry() -> None:
            try:
                await link.carry()
            finally:
                self._links.remove(link)
                del self._tls[link]
                self._gone()
                drop_now(link.stream)  # also where we are cancelled

        nursery.start_soon(carry)
        return link

    # Connections that are not HTTP

    async def raw(self, request: Request | None = None) -> Duplex:
        """A stream of bytes, counted until ``left``. Raises UpstreamResetError."""
        if self._cluster.connected:
            raise UpstreamResetError(Reset.OVERFLOW)
        stream = await self._dialled(self._opening(None, request))
        self.active += 1
        return stream

    def left(self) -> None:
        """What ``raw`` gave is over."""
        self.active -= 1
        self._gone()

    # Ageing

    def look_after_idle(self) -> None:
        """Close what is idle for too long, what its server has closed, and all connections to an
        endpoint that has left or is ejected as soon as they are idle."""
        idle_s = self._cluster.settings.pool.http_idle_s
        too_old = now_s() - (IDLE_S if idle_s is None else idle_s)
        leaving = self._host.gone or self._host.monitor.ejected
        good: list[Connection] = []
        dropped: list[Connection] = []
        for number, connection in enumerate(reversed(self._idle)):
            young = number < MAX_IDLE and connection.idle_since_s > too_old and not leaving
            (good if young and quiet(connection.stream) else dropped).append(connection)
        self._idle[:] = reversed(good)
        for connection in dropped:
            self._drop(connection)
        for link in list(self._links):
            if not link.busy and (leaving or link.idle_since_s < too_old or self._room(link) < 1):
                link.lose("it was idle")

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._drop(self._idle.pop())
        for link in list(self._links):
            if not link.busy:
                link.lose("it was idle")
