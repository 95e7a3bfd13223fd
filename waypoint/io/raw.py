"""Connections that are not HTTP/1.1: policy once, an endpoint, then bytes both ways."""

from __future__ import annotations

import time
from typing import Final

import trio
from msgspec.structs import replace

from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.io.stream import HboneStream
from waypoint.core.authz import decide
from waypoint.core.client_hello import server_name
from waypoint.core.connection_pool import ConnectionPool
from waypoint.core.decision import Plan
from waypoint.core.dispatch import Destination
from waypoint.core.ext_authz import DENIED, FLAG
from waypoint.core.host import Key
from waypoint.core.message import Headers, Peer, Reply, Request
from waypoint.core.plan import direct, guard, resolve
from waypoint.core.record import Record
from waypoint.core.reset import Reset
from waypoint.core.routes import Forward
from waypoint.io.duplex import READ_BYTES, Duplex, abort, drop_now, relay
from waypoint.io.plain_stream import PlainStream
from waypoint.io.request_metrics import OpenConnection
from waypoint.io.service import Service
from waypoint.io.upstream_stream import UpstreamResetError

HELLO_S: Final = 15.0
"""How long a client may take to say its server name (Envoy's listener filters)."""
CONNECT_ATTEMPTS: Final = 3
"""Endpoints that one connection may be tried at."""


class RawConnection:
    """One connection whose bytes are passed on as they are."""

    def __init__(self, service: Service, stream: HboneStream, peer: Peer, to: Destination) -> None:
        self._service = service
        self._stream = stream
        self._to = to
        self._record = Record(peer=peer, to=to, begun_s=time.time())
        self._counted: OpenConnection | None = None
        self._request = Request(
            method="", target="", authority="", headers=Headers(), peer=peer, local=to.address
        )

    async def run(self, first: bytes = b"") -> None:
        """``first`` is what was read from the stream already."""
        begun_s = trio.current_time()
        record = self._record
        try:
            if not await self._serve(first):
                abort(self._stream)
        finally:
            record.duration_ms = (trio.current_time() - begun_s) * 1000
            record.sni = self._request.sni
            if self._counted is None:  # nobody was reached
                self._counted = self._service.reports.opened(record, Counters())
            self._service.reports.closed(self._counted)
            self._service.reports.finished(record)

    async def _serve(self, first: bytes) -> bool:
        """False where the client has to see that the connection did not end well."""
        service, record = self._service, self._record
        first = await self._peek(first)
        decided = await self._judge()
        if decided is None:
            return False
        record.decided = decided
        if decided.upstream is None:
            verdict = decided.verdict
            record.flag = "-" if not verdict.allowed else "UH"
            record.details = f"rbac_access_denied_matched_policy[{verdict.detail}]"
            return False
        upstream = decided.upstream
        cluster = service.cluster(upstream)
        policy = cluster.settings.balancer.hash_policy
        key = policy.key(self._request) if policy is not None and policy.source_ip else None
        tried: list[Key] = []
        while len(tried) < CONNECT_ATTEMPTS:
            host = cluster.pick(
                trio.current_time(),
                key.value if key is not None else None,
                tried=tried,
                allowed=upstream.allowed,
            )
            if host is None:
                break
            tried.append(host.key)
            record.target = host.target
            try:
                stream = await service.upstreams.connect(cluster, host, self._request)
            except UpstreamResetError as error:
                record.cause = error.cause or error.reason.words
                if error.reason is Reset.OVERFLOW:
                    cluster.counts.overflows += 1
                    record.flag = Reset.OVERFLOW.flag
                    return False
                cluster.failed(host, trio.current_time())
                continue
            cluster.answered(host, 200, trio.current_time())
            host.active += 1
            try:
                return await self._relay(stream, first, cluster.settings.pool)
            finally:
                host.active -= 1
                drop_now(stream)
                service.upstreams.left(cluster, host)
        record.flag = "UF,URX" if tried else "UH"
        return False

    async def _peek(self, first: bytes) -> bytes:
        """What the client has said, with enough of it to know the server name where that counts."""
        if not self._service.program.needs_sni(self._to.service, self._to.address.port):
            return first
        with trio.move_on_after(HELLO_S):
            while (name := server_name(first)) is None:
                more = await self._stream.receive_some(READ_BYTES)
                if not more:
                    break
                first += more
            self._request.sni = name or ""
        return first

    async def _judge(self) -> Plan | None:
        """Where the connection goes; None where an authorizer refuses it."""
        guards, record = self._service.program.guards, self._record
        if not await self._service.safeguards.admit_connection(guards, self._to, self._request):
            record.flag, record.details = FLAG, DENIED
            return None
        verdict = decide(guards.authorization(self._to.service), self._request, http=False)
        return self._plan(Plan(verdict=verdict, route=None))

    def _plan(self, judged: Plan) -> Plan:
        """The route of the connection: the first that applies, else the service itself."""
        to, service = self._to, self._service
        if not judged.verdict.allowed:
            return judged
        own, peer = service.own, self._request.peer
        if to.workload is not None:
            found = replace(judged, upstream=direct(to.workload, to))
            return guard(found, service.directory, peer, own)
        assert to.service is not None
        sni = self._request.sni
        route = service.program.stream_route(to.service, to.address.port, sni, peer)
        judged = replace(judged, route=route)
        if not isinstance(route.action, Forward):
            return judged
        backend = route.action.choose(service.draw())
        upstream = resolve(backend, service.program, service.directory, to)
        if isinstance(upstream, Reply):
            return judged
        return guard(replace(judged, upstream=upstream), service.directory, peer, own)

    async def _relay(self, endpoint: Duplex, first: bytes, pool: ConnectionPool) -> bool:
        """Bytes both ways, no longer than the connection may last and not idle for too long."""
        counters = Counters()
        self._counted = self._service.reports.opened(self._record, counters)
        done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_idle, counters, pool.tcp_idle_s, nursery.cancel_scope)
            if pool.max_connection_s is not None:
                nursery.cancel_scope.deadline = trio.current_time() + pool.max_connection_s
            done = await self._copy(endpoint, first, counters)
            nursery.cancel_scope.cancel()
        return done

    async def _copy(self, endpoint: Duplex, first: bytes, counters: Counters) -> bool:
        record = self._record
        try:
            if isinstance(endpoint, PlainStream) and endpoint.unread:
                if first:
                    await endpoint.send_all(first)
                counters.received = len(first)
                await self._stream.couple(endpoint.detach(), counters)
            else:
                copied = await relay(self._stream, endpoint, (first, b""), counters)
                if copied.broken is not None:
                    record.flag = "UC"
                    return False
                await endpoint.aclose()
        except (HboneStreamError, trio.BrokenResourceError):
            record.flag = "DC"
            return False
        finally:
            record.received, record.sent = counters.received, counters.sent
        return True


async def _end_when_idle(counters: Counters, idle_s: float, scope: trio.CancelScope) -> None:
    """Cancel a relay that has moved nothing for so long."""
    while True:
        before = counters.received, counters.sent
        await trio.sleep(idle_s)
        if (counters.received, counters.sent) == before:
            scope.cancel()
