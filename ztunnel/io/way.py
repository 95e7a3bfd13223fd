"""The way to a next hop: dial it, plainly or through one or two tunnels, or dial another one."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.api.workload import Workload
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import ConnectRefused, HandshakeError, HboneStreamError
from ambient.hbone.io.nested import connect_inside
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream
from ambient.identity.core.verify import PeerIdentityError
from ambient.net.io.sockets import ConnectError, connect_in
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.core.describe import FarEnd
from ztunnel.core.headers import FORWARDED_NETWORK, TRACE_BYTES, read_baggage, request_headers
from ztunnel.core.route import (
    INNER_IDENTITY_HINT,
    NoRoute,
    Protocol,
    Route,
    no_inner_identity,
    route,
    with_addresses,
)
from ztunnel.io.failures import ConnectionFailedError
from ztunnel.io.node import Node, PodParts

ATTEMPTS: Final = 3
"""Endpoints that one connection tries. A silent one costs 10 s, and clients seldom wait longer."""
_NOT_REACHED: Final = 503
"""A tunnel's answer for an application that does not listen."""

log = get_logger("outbound")


class UnresolvedError(ConnectionFailedError):
    """The next hop is known by a name that has no usable address."""


class PlainLeg:
    """A connected TCP socket."""

    far: FarEnd | None = None
    peer: Identity | None = None

    def __init__(self, relay: Relay, upstream: socket.socket) -> None:
        self._relay = relay
        self._upstream = upstream

    async def carry(self, sock: socket.socket, counters: Counters) -> None:
        """Relay both ways until both have ended."""
        await self._relay.splice(sock, self._upstream, counters)

    def drop(self) -> None:
        """Give up what has not been carried."""
        self._upstream.close()


class TunnelLeg:
    """An accepted CONNECT."""

    def __init__(self, stream: HboneStream, far: FarEnd | None = None) -> None:
        self._stream = stream
        self.peer = stream.peer
        self.far = far

    async def carry(self, sock: socket.socket, counters: Counters) -> None:
        """As for a plain leg. Raises HboneStreamError."""
        await self._stream.couple(sock, counters)

    def drop(self) -> None:
        """Give up what has not been carried."""
        self._stream.release()


Leg = PlainLeg | TunnelLeg


class Way:
    """One connection of our pod, on its way out."""

    def __init__(
        self, node: Node, pod: PodParts, client: Workload, peer: HostPort, original: HostPort
    ) -> None:
        self._node = node
        self._pod = pod
        self._client = client
        self._peer = peer
        self._original = original
        self.hop: Route | None = None
        """What was tried last."""

    async def reach(self, hop: Route) -> tuple[Route, Leg]:
        """Open ``hop``, or another endpoint where that fails; says which one it was.

        Raises MeshError, OSError: those of the last attempt.
        """
        tried: frozenset[str] = frozenset()
        for attempt in range(1, ATTEMPTS + 1):
            self.hop = hop
            try:
                self.hop = hop = await self._with_address(hop)
                return hop, await self._open(hop)
            except MeshError as error:
                if attempt == ATTEMPTS or hop.workload is None or not _is_unreached(error):
                    raise
                tried |= {hop.workload.uid}
                another = route(
                    self._node.view.state, self._client, self._original, random.random, tried
                )
                if isinstance(another, NoRoute):
                    raise
                log.info(
                    Event.CONN_RETRIED,
                    destination=str(self._original),
                    failed=hop.workload.uid,
                    error=str(error),
                )
                hop = another
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _with_address(self, hop: Route) -> Route:
        if hop.target.ip is not None:
            return hop
        self._node.name_metrics.looked_up(self._client, hop.target.host)
        addresses = await self._node.resolver.addresses(hop.target.host)
        found = with_addresses(hop, self._original, addresses, random.random)
        if isinstance(found, NoRoute):
            raise UnresolvedError(found.reason, hint=found.hint)
        return found

    async def _open(self, hop: Route) -> Leg:
        match hop.protocol:
            case Protocol.TCP:
                return PlainLeg(self._node.relay, await self._dial(hop, plain=True))
            case Protocol.HBONE:
                return TunnelLeg(await self._tunnel(hop))
            case Protocol.DOUBLE_HBONE:
                return await self._double(hop)

    async def _dial(self, hop: Route, *, plain: bool) -> socket.socket:
        keep_alive = self._node.keep_alive if plain else None  # HBONE has its own pings
        mark = self._node.settings.mark
        return await connect_in(self._pod.netns, hop.target, mark=mark, keep_alive=keep_alive)

    async def _tunnel(self, hop: Route) -> HboneStream:
        """A stream in a pooled tunnel."""

        async def dial() -> socket.socket:
            return await self._dial(hop, plain=False)

        tls = await self._node.certs.client_context(self._client.identity)
        key = (self._client.identity, hop.identities, hop.target)
        request = self._request(hop)
        stream, _ = await self._pod.pool.connect(key, request, dial, tls, hop.identities)
        return stream

    async def _double(self, hop: Route) -> TunnelLeg:
        """A stream in a connection of its own, inside a stream of the pooled tunnel to a gateway.

        Sharing the inner connection would tie all later streams to one endpoint behind the gateway.
        """
        if not hop.inner_identities:
            raise ConnectionFailedError(no_inner_identity(hop), hint=INNER_IDENTITY_HINT)
        outer = await self._tunnel(hop)
        try:
            tls = await self._node.certs.client_context(self._client.identity)
        except BaseException:
            outer.release()
            raise
        inner = self._request(hop, (FORWARDED_NETWORK, self._node.view.network))
        stream, answer = await connect_inside(
            self._node.relay, outer, inner, tls, hop.inner_identities
        )
        return TunnelLeg(stream, FarEnd(stream.peer, read_baggage(answer.headers)))

    def _request(self, hop: Route, *more: tuple[str, str]) -> ConnectRequest:
        host = hop.service.hostname if hop.service else ""
        headers = request_headers(self._client, self._peer, host, os.urandom(TRACE_BYTES))
        return ConnectRequest(authority=hop.authority, headers=(*headers, *more))


def _is_unreached(error: MeshError) -> bool:
    """Did this endpoint fail, rather than answer? A denial is an answer."""
    if isinstance(error, ConnectRefused):
        return error.status == _NOT_REACHED
    return isinstance(
        error,
        ConnectError | HandshakeError | PeerIdentityError | HboneStreamError | UnresolvedError,
    )
