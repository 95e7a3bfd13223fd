"""The stages of one request, in order: enter, judge and route, forward or reply, record."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace

from waypoint.core.decision import Plan
from waypoint.core.dispatch import Destination
from waypoint.core.entry import Caller, enter
from waypoint.core.envoy_filter import Limits
from waypoint.core.ext_authz import TOO_LARGE
from waypoint.core.fault import DELAY_FLAG
from waypoint.core.filters import HeaderEdits, HeaderFilter
from waypoint.core.grpc import trailers_only
from waypoint.core.http1 import BadMessageError
from waypoint.core.local_reply import bad_request
from waypoint.core.message import Headers, Peer, Reply, Request, Response
from waypoint.core.plan import plan, refused
from waypoint.core.program import Program
from waypoint.core.record import Record
from waypoint.core.stream_limits import HEAD_TIMEOUT, NO_LIMITS, StreamLimits
from waypoint.io.attempts import Attempts
from waypoint.io.downstream import ClientGoneError, Downstream
from waypoint.io.fiber import Limit, in_task, now_s
from waypoint.io.rate_limits import Called, Told
from waypoint.io.service import Service
from waypoint.io.stream_watch import StreamWatch

Edits = tuple[HeaderEdits, ...]
_PROTOCOLS: Final = {version: "HTTP/" + version for version in ("1.0", "1.1", "2")}


class Exchanges:
    """Serves the exchanges of one connection, which all have one client and one destination."""

    def __init__(self, service: Service, peer: Peer, to: Destination) -> None:
        self._service = service
        self._peer = peer
        self._to = to
        self._caller = Caller(peer, to.address, service.told_by)
        self._known: Program | None = None
        self._limits = NO_LIMITS
        """Of the configuration that we know."""

    def serve(self, client: Downstream) -> Awaitable[None]:
        """Serve one exchange. Raises ClientGoneError where the client's connection is lost."""
        return Exchange(self._service, client, self._caller, self._to).run()

    def limits(self) -> StreamLimits:
        """How long the connection's requests may take."""
        program = self._service.program
        if program is not self._known:
            self._known = program
            self._limits = program.chain(self._to).limits.streams(self._to.address.port)
        return self._limits

    def refused(self, bad: BadMessageError) -> tuple[Response, bytes]:
        """Head and body of the answer to bytes that are no request; recorded."""
        record = Record(peer=self._peer, to=self._to, method="-")
        late = bad.details == HEAD_TIMEOUT.details
        reply = HEAD_TIMEOUT if late else bad_request(bad.status, bad.details)
        record.answered(reply)
        self._service.reports.finished(record)
        return head_of(reply, self._service), reply.body.encode()


class Exchange:
    """One request: each stage either goes on or gives the reply that ends the exchange."""

    def __init__(
        self, service: Service, client: Downstream, caller: Caller, to: Destination
    ) -> None:
        self._service = service
        self._client = client
        self._caller = caller
        self._to = to
        self._scope = Limit()
        self._watch: StreamWatch | None = None
        self._rates: Callable[[Record], Told | None] | None = None
        head = client.head
        facts = head.facts
        self._record = Record(
            peer=caller.peer,
            to=to,
            method=head.method,
            path=head.target,
            authority=head.authority or "",
            user_agent=facts.user_agent,
            forwarded_for=facts.forwarded_for or "",
            request_id=facts.request_id or "",
            grpc=facts.grpc,
            protocol=_PROTOCOLS[head.version],
            begun_s=time.time(),
        )

    async def run(self) -> None:
        """All stages. Raises ClientGoneError."""
        client, record = self._client, self._record
        begun_s = now_s()
        try:
            with self._scope as limit:
                client.attend(limit)
                try:
                    reply = await self._answer()
                except BadMessageError as bad:
                    # the client's body is not HTTP, or a filter made something that cannot be sent
                    reply = bad_request(bad.status if bad.status < 500 else 500, bad.details)
                if reply is not None:
                    await self._owe(reply)
            if limit.cancelled_caught:
                overdue = self._watch.overdue() if self._watch is not None else None
                if overdue is None:
                    raise ClientGoneError
                client.closing = client.closing or not client.body.complete
                await self._owe(overdue)
        except ClientGoneError:
            record.flag, record.details = "DC", "downstream_remote_disconnect"
            raise
        finally:
            record.received += client.body.received
            record.duration_ms = (now_s() - begun_s) * 1000
            self._service.reports.finished(record)
            if self._rates is not None and (told := self._rates(record)) is not None:
                self._service.background(told)

    async def _owe(self, reply: Reply) -> None:
        if self._client.started:  # too late for an answer: let the client see that it is cut short
            self._record.flag, self._record.details = reply.flag, reply.details
            self._client.reset()
        else:
            await self._reply(reply)

    async def _answer(self) -> Reply | None:
        """None where an endpoint has answered; else the reply that the client is owed."""
        known_id = self._client.head.facts.request_id is not None
        request = self._enter(known_id=known_id)
        if isinstance(request, Reply):
            return request
        self._service.reports.trace(request, self._record, self._to, known_id=known_id)
        program = self._service.program  # one configuration from here to the end
        chain = program.chain(self._to)
        if chain.limits.found and (times := chain.limits.streams(self._to.address.port)):
            self._watch = StreamWatch(self._scope, times, self._client.body)
        reply, added = await self._service.safeguards.admit(
            program.guards.mesh, chain, request, self._client.body, self._record.protocol
        )
        if reply is not None:
            self._record.decided = refused(chain, reply, request, self._service.draw)
            return reply
        limits = chain.limits if chain.limits.found else None
        seen = request if limits is None else replace(request, headers=request.headers.copy())
        decided = self._plan(program, request, added)
        if decided.delay_s:
            self._record.add_flag(DELAY_FLAG)
            async with in_task():
                await trio.sleep(decided.delay_s)
        if limits is not None:
            decided = await self._limit(limits, seen, request, decided)
        if decided.upstream is None:
            assert decided.reply is not None
            return decided.reply
        attempts = Attempts(self._service, self._client, request, decided, self._record)
        attempts.watch = self._watch
        return await attempts.run(decided.upstream)

    def _enter(self, *, known_id: bool) -> Request | Reply:
        service = self._service
        how = service.program.guards.mesh.normalization
        record = self._record
        new_id = "" if known_id else service.request_id()
        request = enter(self._client.head, self._caller, new_id, how)
        if isinstance(request, Request):
            record.request_id = record.request_id or new_id
            request.at_s = record.begun_s
            record.path, record.request_headers = request.target, request.headers
            record.metadata = request.metadata
        return request

    def _plan(self, program: Program, request: Request, added: Edits) -> Plan:
        service = self._service
        decided = plan(request, program, service.directory, self._to, service.draw, service.own)
        if added:  # an authorizer's, for the response
            more = (HeaderFilter(response=edits) for edits in added)
            decided = replace(decided, filters=(*decided.filters, *more))
        record = self._record
        record.decided, record.authority = decided, request.authority
        if request.target != record.path:
            record.new_path = request.target
        return decided

    async def _limit(self, limits: Limits, seen: Request, request: Request, decided: Plan) -> Plan:
        """Rates are limited where the router would take over; ``seen`` is the request before
        its route edited it."""
        if not decided.verdict.allowed or (decided.reply is not None and decided.reply.flag != "-"):
            return decided
        route = decided.route.name if decided.route is not None else ""
        cluster = decided.upstream.cluster if decided.upstream is not None else ""
        to = Called(str(self._to.key), self._to.address.port, route, cluster)
        found = await self._service.limiter.admit(limits, to, seen)
        if found.reply is None:
            self._rates = partial(self._service.limiter.ending, limits, to, seen)
        most = limits.body(to.port, route)
        held = most is not None and found.reply is None and request.has_body
        if held and not await self._hold(request, most or 0):
            decided = replace(decided, reply=TOO_LARGE, upstream=None)
        for name, value in found.request:
            request.headers.set(name, value)
        if found.reply is not None:
            decided = replace(decided, reply=found.reply, upstream=None)
        elif found.response:
            more = HeaderFilter(response=HeaderEdits(put=found.response))
            decided = replace(decided, filters=(*decided.filters, more))
        self._record.decided = decided
        return decided

    async def _hold(self, request: Request, most: int) -> bool:
        """Read the whole body before any of it is sent on; False where it is too long."""
        body = self._client.body
        if (request.content_length or 0) > most:
            return False
        if self._client.head.expect_continue:  # nobody else can say so as long as we hold it
            request.headers.remove("expect")
            self._client.begin(Response(100, Headers()))
            await self._client.flush()
        body.keep(most)
        while not body.complete and body.received <= most:
            await body.next()
        if body.received > most:
            return False
        request.content_length = body.received  # as Envoy, which knows it by now
        return True

    async def _reply(self, reply: Reply) -> None:
        """Answer by ourselves, through the filters that the request has passed."""
        client, record = self._client, self._record
        if record.decided is not None and record.decided.filters:
            response = Response(reply.status, Headers(reply.headers))
            record.decided.edit(response)
            reply = reply._replace(headers=tuple(response.headers))
        if record.grpc:
            reply = trailers_only(reply)
            record.grpc_status = dict(reply.headers).get("grpc-status", "")
        record.answered(reply)
        client.closing = client.closing or reply.flag == "DPE"
        response = head_of(reply, self._service)
        body = reply.body.encode()
        record.response_headers = response.headers
        response.end = not body or client.head.method == "HEAD"
        client.begin(response)
        if not response.end:
            record.sent = len(body)
            client.data(body)
            client.end()
        await client.flush()


def head_of(reply: Reply, service: Service) -> Response:
    """The head of a local reply."""
    headers = Headers(reply.headers)
    size = len(reply.body.encode())
    if size and "content-type" not in headers:
        headers.add("content-type", "text/plain")
    service.stamp(headers)
    return Response(reply.status, headers, content_length=size)
