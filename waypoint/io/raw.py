"""Connections that are not HTTP/1.1: policy once, an endpoint, then bytes both ways."""

from __future__ import annotations

from typing import Final

import trio

from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.io.stream import HboneStream
from waypoint.core.authz import decide
from waypoint.core.dispatch import Destination
from waypoint.core.host import Key
from waypoint.core.message import Headers, Peer, Reply, Request
from waypoint.core.plan import Plan, direct, guard, resolve
from waypoint.core.program import default_route
from waypoint.core.record import Record
from waypoint.core.routes import Forward
from waypoint.io.duplex import Duplex, abort, drop_now, relay
from waypoint.io.plain_stream import PlainStream
from waypoint.io.service import Service
from waypoint.io.upstream_stream import UpstreamResetError

CONNECT_ATTEMPTS: Final = 3
"""Endpoints that one connection may be tried at."""


class RawConnection:
    """One connection whose bytes are passed on as they are."""

    def __init__(self, service: Service, stream: HboneStream, peer: Peer, to: Destination) -> None:
        self._service = service
        self._stream = stream
        self._to = to
        self._record = Record(peer=peer, to=to)
        self._request = Request(
            method="", target="", authority="", headers=Headers(), peer=peer, local=to.address
        )

    async def run(self, first: bytes = b"") -> None:
        """``first`` is what was read from the stream already."""
        begun_s = trio.current_time()
        record = self._record
        try:
            if not await self._serve(first):
                await abort(self._stream)
        finally:
            record.duration_ms = (trio.current_time() - begun_s) * 1000
            self._service.finished(record)

    async def _serve(self, first: bytes) -> bool:
        """False where the client has to see that the connection did not end well."""
        service, record = self._service, self._record
        verdict = decide(service.program.policies(self._to.service), self._request, http=False)
        decided = self._plan(Plan(verdict=verdict, route=None))
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
                stream = await service.upstreams.connect(host.target)
            except UpstreamResetError as error:
                record.cause = error.cause or error.reason.words
                cluster.failed(host, trio.current_time())
                continue
            cluster.answered(host, 200, trio.current_time())
            host.active += 1
            try:
                return await self._relay(stream, first)
            finally:
                host.active -= 1
                drop_now(stream)
                service.upstreams.left(host.target)
        record.flag = "UF,URX" if tried else "UH"
        return False

    def _plan(self, judged: Plan) -> Plan:
        """Routes are for HTTP, so that the endpoints are those of the address itself."""
        to, service = self._to, self._service
        if not judged.verdict.allowed:
            return judged
        own, peer = service.own, self._request.peer
        if to.workload is not None:
            found = Plan(verdict=judged.verdict, route=None, upstream=direct(to.workload, to))
            return guard(found, service.directory, peer, own)
        assert to.service is not None
        route = default_route(to.service.key, to.address.port)
        assert isinstance(route.action, Forward)
        upstream = resolve(route.action.choose(0.0), service.program, service.directory, to)
        if isinstance(upstream, Reply):
            return judged
        found = Plan(verdict=judged.verdict, route=route, upstream=upstream)
        return guard(found, service.directory, peer, own)

    async def _relay(self, endpoint: Duplex, first: bytes) -> bool:
        record = self._record
        counters = Counters()
        try:
            if isinstance(endpoint, PlainStream):
                if first:
                    await endpoint.send_all(first)
                counters.received = len(first)
                await self._stream.couple(endpoint.detach(), counters)
            else:
                copied = await relay(self._stream, endpoint, (first, b""))
                counters.received, counters.sent = copied.right, copied.left
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
