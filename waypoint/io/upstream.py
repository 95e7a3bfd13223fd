"""The connections to all endpoints, kept between exchanges, by cluster and endpoint."""

from __future__ import annotations

from typing import Final

import trio

from waypoint.core.cluster import Cluster
from waypoint.core.codec import Codec
from waypoint.core.host import Host
from waypoint.core.message import Request
from waypoint.io.duplex import Duplex
from waypoint.io.endpoint_pool import Dial, EndpointPool
from waypoint.io.upstream_stream import UpstreamStream

LOOK_S: Final = 1.0
"""How often idle connections are looked at."""


class Upstreams:
    """``run`` has to be running."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._pools: dict[tuple[Cluster, Host], EndpointPool] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def active(self) -> int:
        """How many exchanges and raw connections are under way."""
        return sum(pool.active for pool in self._pools.values())

    @property
    def kept(self) -> int:
        """How many connections wait for an exchange."""
        return sum(pool.kept for pool in self._pools.values())

    async def open(
        self,
        cluster: Cluster,
        host: Host,
        codec: Codec = Codec.HTTP1,
        request: Request | None = None,
        *,
        fresh: bool = False,
        careful: bool = False,
    ) -> UpstreamStream:
        """A stream for one exchange. Raises UpstreamResetError.

        ``fresh`` asks for a new connection; ``careful`` for one that is new or in lively use.
        ``request`` says who calls, where endpoints are told (``proxyProtocol``).
        """
        pool = self.pool(cluster, host)
        if codec is Codec.HTTP1:
            return await pool.http1(request, fresh=fresh, careful=careful)
        if self._nursery is None:
            raise RuntimeError("the upstreams do not run")
        return await pool.http2(self._nursery, request, fresh=fresh)

    def at_hand(
        self, cluster: Cluster, host: Host, codec: Codec, *, careful: bool
    ) -> UpstreamStream | None:
        """A stream on a connection that is there, if there is one; see ``open``."""
        pool = self._pools.get((cluster, host))
        if pool is None:
            return None
        return pool.on_kept(careful) if codec is Codec.HTTP1 else pool.on_shared()

    async def connect(self, cluster: Cluster, host: Host, request: Request | None = None) -> Duplex:
        """A new stream of bytes, counted until ``left``. Raises UpstreamResetError."""
        return await self.pool(cluster, host).raw(request)

    def left(self, cluster: Cluster, host: Host) -> None:
        """What ``connect`` gave is over."""
        self.pool(cluster, host).left()

    def pool(self, cluster: Cluster, host: Host) -> EndpointPool:
        """The connections of a cluster to one of its endpoints."""
        pool = self._pools.get((cluster, host))
        if pool is None:
            pool = self._pools[cluster, host] = EndpointPool(cluster, host, self._dial)
        return pool

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
        for pool in self._pools.values():
            pool.close()

    def _look_after_idle(self) -> None:
        for key, pool in list(self._pools.items()):
            pool.look_after_idle()
            if pool.idle:
                del self._pools[key]
