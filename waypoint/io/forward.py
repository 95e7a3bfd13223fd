"""One request on its way to an endpoint and its response on the way back, both streamed."""

from __future__ import annotations

import math
from typing import Final

import trio

from waypoint.core.http1 import BadMessageError, End, RequestHead, ResponseHead, ResponseReader
from waypoint.core.http1_write import write_chunk, write_last_chunk, write_request, write_response
from waypoint.core.local_reply import (
    CONNECTION_TERMINATION,
    NO_HEALTHY_UPSTREAM,
    REQUEST_TIMEOUT,
    UPSTREAM_PROTOCOL_ERROR,
    bad_request,
    connect_failed,
)
from waypoint.core.message import Reply, Request, Response
from waypoint.core.plan import Plan, Upstream
from waypoint.core.record import Record
from waypoint.io.client import Body, Client, ClientGoneError, finish_headers
from waypoint.io.duplex import STREAM_ERRORS, abort, relay
from waypoint.io.service import Service
from waypoint.io.upstream import Connection, UpstreamError

TRIES: Final = 4
"""Connections that one request may try: three that cannot be made or went stale, and one more."""
PATIENCE_S: Final = 0.2
"""A response that takes longer lets us look whether the client is still there."""
IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""Methods that may be sent twice (RFC 9110, section 9.2.2)."""


class UpstreamEndedError(Exception):
    """The endpoint closed or reset the connection before the response was complete."""


class Forwarding:
    """Sends one request and streams its response.

    ``run`` answers None where everything was sent, else the reply that the client is still owed.
    """

    def __init__(
        self, service: Service, client: Client, head: RequestHead, body: Body, record: Record
    ) -> None:
        self._service = service
        self._client = client
        self._head = head
        self._body = body
        self._record = record
        self._failure: Exception | None = None
        self._answered = False  # something of the response was received
        self._chunked = False
        self._limit = trio.CancelScope()
        self._timeout_s: float | None = None
        self.started = False
        """Has the client got the head of a response?"""
        self.keep = False
        """May the client's connection go on?"""
        self.upgraded = False

    async def run(self, request: Request, decided: Plan, upstream: Upstream) -> Reply | None:
        """Try endpoints until one answers. Raises ClientGoneError."""
        self._timeout_s = decided.route.timeout_s if decided.route is not None else None
        if self._body.complete:
            self._start_clock()
        reply: Reply | None = None
        with self._limit:
            reply = await self._try_endpoints(request, decided, upstream)
        return REQUEST_TIMEOUT if self._limit.cancelled_caught else reply

    def _start_clock(self) -> None:
        """A route's timeout runs from the end of the request."""
        if self._timeout_s is not None:
            self._limit.deadline = trio.current_time() + self._timeout_s

    async def _try_endpoints(
        self, request: Request, decided: Plan, upstream: Upstream
    ) -> Reply | None:
        service, record = self._service, self._record
        wire = write_request(request, self._head)
        tried: set[tuple[str, int]] = set()
        fresh, cause = False, ""
        for _ in range(TRIES):
            target = service.balancer.choose(
                upstream.targets, upstream.balancing, group=upstream.cluster, tried=tried
            )
            if target is None:
                break
            record.target = target
            try:
                connection = await service.upstreams.acquire(target, fresh=fresh)
            except UpstreamError as error:
                cause = str(error)
                tried.add(target.key)
                continue
            await self._exchange(connection, wire, decided)
            if not self._stale(connection):
                return self._owed()
            fresh = True
        if self._failure is not None:
            return self._owed()
        record.cause = cause
        return connect_failed(cause) if cause else NO_HEALTHY_UPSTREAM

    def _stale(self, connection: Connection) -> bool:
        """Did a kept connection end before it took notice of a request that may be repeated?"""
        return (
            isinstance(self._failure, UpstreamEndedError)
            and connection.reused
            and not self._answered
            and self._body.replayable
            and self._head.method in IDEMPOTENT
        )

    def _owed(self) -> Reply | None:
        """What an attempt that failed means for the client."""
        match self._failure:
            case None:
                return None
            case ClientGoneError():
                raise self._failure
            case BadMessageError(status=status, details=details) if status < 500:
                return bad_request(status, details)
            case BadMessageError():
                return UPSTREAM_PROTOCOL_ERROR
            case _:
                return CONNECTION_TERMINATION

    async def _exchange(self, connection: Connection, wire: bytes, decided: Plan) -> None:
        """One attempt. What goes wrong is noted, not raised: tasks of a group share it."""
        self._failure = None
        reader = ResponseReader(self._head.method)
        sent = False
        released = False
        try:
            async with trio.open_nursery() as nursery:

                async def upload() -> None:
                    nonlocal sent
                    sent = await self._upload(connection, nursery)

                try:
                    await connection.send(wire)
                    if self._head.has_body:
                        nursery.start_soon(upload)
                    else:
                        sent = True
                    await self._response(connection, reader, decided, nursery)
                except STREAM_ERRORS as error:
                    self._note(UpstreamEndedError(str(error)))
                except (UpstreamEndedError, ClientGoneError, BadMessageError) as error:
                    self._note(error)
                nursery.cancel_scope.cancel()
            if self.upgraded:
                await self._tunnel(connection, reader)
            elif self._failure is None:
                self.keep = self.keep and self._body.complete
                if sent and reader.reusable:
                    self._service.upstreams.release(connection)
                    released = True
        finally:
            if not released:
                await self._service.upstreams.discard(connection)

    def _note(self, failure: Exception) -> None:
        """The first failure counts."""
        if self._failure is None:
            self._failure = failure

    async def _upload(self, connection: Connection, nursery: trio.Nursery) -> bool:
        """Send the request's content; True where all of it went out."""
        body = self._body
        try:
            for event in body.seen():
                await self._send_piece(connection, event)
            while not body.complete:
                await self._send_piece(connection, await body.next())
            self._start_clock()
            await trio.lowlevel.checkpoint()
        except STREAM_ERRORS:
            return False  # the response tells: the endpoint may have answered early
        except (ClientGoneError, BadMessageError) as error:
            self._note(error)
            nursery.cancel_scope.cancel()
            return False
        nursery.start_soon(self._watch_client, nursery, PATIENCE_S)
        return True

    async def _send_piece(self, connection: Connection, event: bytes | End) -> None:
        if isinstance(event, bytes):
            await connection.send(write_chunk(event) if self._head.chunked else event)
        elif self._head.chunked:
            await connection.send(write_last_chunk(event.trailers))

    async def _watch_client(self, nursery: trio.Nursery, after_s: float = 0.0) -> None:
        """Give the exchange up when its client goes away."""
        try:
            await trio.sleep(after_s)
            await self._client.watch()
        except ClientGoneError as error:
            self._note(error)
            nursery.cancel_scope.cancel()

    async def _response(
        self, connection: Connection, reader: ResponseReader, decided: Plan, nursery: trio.Nursery
    ) -> None:
        """Stream the response: what one read gives leaves in one write."""
        watched = self._head.has_body
        begun_s = trio.current_time()
        done = False
        while not done:
            data = b""
            with trio.move_on_after(math.inf if watched else PATIENCE_S) as patience:
                data = await connection.receive()
            if patience.cancelled_caught:
                watched = True
                nursery.start_soon(self._watch_client, nursery)
                continue
            if data:
                self._answered = True
                reader.feed(data)
            elif not reader.eof():
                raise UpstreamEndedError("the endpoint closed the connection")
            out = bytearray()
            while (event := reader.next()) is not None:
                if isinstance(event, ResponseHead):
                    out += self._begin(event, decided, begun_s)
                elif isinstance(event, bytes):
                    self._record.sent += len(event)
                    out += write_chunk(event) if self._chunked else event
                else:
                    done = True
                    out += write_last_chunk(event.trailers) if self._chunked else b""
            if out:
                await self._client.send(bytes(out))

    def _begin(self, head: ResponseHead, decided: Plan, begun_s: float) -> bytes:
        """The head for the client."""
        response = Response(head.status, head.headers, head.reason)
        if head.informational:
            return write_response(response)
        record = self._record
        if head.status == 101:
            if not self._head.upgrade:
                raise BadMessageError(502, "unexpected_upgrade")
            self.upgraded = True
        decided.edit(response)
        finish_headers(response.headers)
        record.upstream_ms = round((trio.current_time() - begun_s) * 1000)
        response.headers.set("x-envoy-upstream-service-time", str(record.upstream_ms))
        record.status, record.details = head.status, "via_upstream"
        self._chunked = not head.bodiless and head.content_length is None
        self.keep = self._head.keep_alive and not self._service.draining
        self.started = True
        return write_response(
            response,
            length=None if head.status in (101, 204) else head.content_length,
            chunked=self._chunked,
            close=not self.keep,
        )

    async def _tunnel(self, connection: Connection, reader: ResponseReader) -> None:
        """After a 101: bytes both ways until both sides have ended."""
        self._limit.deadline = math.inf
        self.keep = False
        stream, ahead = self._client.take_over()
        copied = await relay(stream, connection.stream, (ahead, reader.take_rest()))
        self._record.received += copied.right
        self._record.sent += copied.left
        if copied.broken is None:
            await stream.aclose()
        else:
            await abort(stream)
