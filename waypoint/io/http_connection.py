"""An HTTP/1.1 connection of a client: its requests one after the other."""

from __future__ import annotations

from typing import Final

import trio

from waypoint.core.dispatch import Destination
from waypoint.core.entry import enter
from waypoint.core.http1 import BadMessageError, RequestHead
from waypoint.core.local_reply import bad_request
from waypoint.core.message import Headers, Peer, Reply, Request, Response
from waypoint.core.plan import plan
from waypoint.core.record import Record
from waypoint.io.client import Body, Client, ClientGoneError, local_response
from waypoint.io.duplex import Duplex
from waypoint.io.forward import Forwarding
from waypoint.io.service import Service

FIRST_REQUEST_S: Final = 2.0
"""A connection that was just opened gets its first request answered even while we drain."""


class HttpConnection:
    """Serves one connection until the client ends it, breaks it, or we drain."""

    def __init__(self, service: Service, stream: Duplex, peer: Peer, to: Destination) -> None:
        self._service = service
        self._stream = stream
        self._peer = peer
        self._to = to
        self._served = False

    async def run(self, first: bytes = b"") -> None:
        """``first`` is what was read from the stream already."""
        client = Client(self._stream, first)
        try:
            while (head := await self._next_head(client)) is not None:
                if not await self._exchange(client, head):
                    break
            await client.finish()
        except ClientGoneError:
            pass
        finally:
            await client.abort()

    async def _next_head(self, client: Client) -> RequestHead | None:
        """The next request; None where there is none, or none that we accept."""
        scope = self._service.waiting(0.0 if self._served else FIRST_REQUEST_S)
        event = None
        try:
            with scope:
                event = await client.next_event()
            if scope.cancelled_caught and not client.idle:
                event = await client.next_event()  # a request that has begun is served
        except BadMessageError as bad:
            record = Record(peer=self._peer, to=self._to, method="-")
            reply = bad_request(bad.status, bad.details)
            record.answered(reply)
            await client.send(local_response(reply, "GET", close=True))
            self._service.finished(record)
        finally:
            self._service.served(scope)
        assert event is None or isinstance(event, RequestHead)
        return event

    async def _exchange(self, client: Client, head: RequestHead) -> bool:
        """Serve one request; False where the connection cannot go on."""
        begun_s = trio.current_time()
        self._served = True
        body = Body(client, head.has_body)
        record = self._record(head)
        try:
            if not head.has_body:
                await body.next()  # the end, which is known already
            return await self._serve(client, head, body, record)
        except ClientGoneError:
            record.flag, record.details = "DC", "downstream_remote_disconnect"
            raise
        except BadMessageError as bad:  # a filter made something that cannot be sent
            return await self._reply(client, head, body, record, bad_request(500, bad.details))
        finally:
            record.received += body.received
            record.duration_ms = (trio.current_time() - begun_s) * 1000
            self._service.finished(record)

    def _record(self, head: RequestHead) -> Record:
        return Record(
            peer=self._peer,
            to=self._to,
            method=head.method,
            path=head.target,
            authority=head.authority or "",
            user_agent=head.headers.get("user-agent") or "",
            forwarded_for=head.headers.get("x-forwarded-for") or "",
            request_id=head.headers.first("x-request-id") or "",
            grpc=(head.headers.first("content-type") or "").startswith("application/grpc"),
        )

    async def _serve(self, client: Client, head: RequestHead, body: Body, record: Record) -> bool:
        service = self._service
        request = enter(head, self._peer, self._to.address, service.request_id())
        if not isinstance(request, Request):
            return await self._reply(client, head, body, record, request)
        record.request_id = request.headers.first("x-request-id") or ""
        decided = plan(
            request, service.program, service.directory, self._to, service.draw, service.own
        )
        record.decided = decided
        if decided.upstream is None:
            assert decided.reply is not None
            return await self._reply(client, head, body, record, decided.reply)
        forwarding = Forwarding(service, client, head, body, record)
        owed = await forwarding.run(request, decided, decided.upstream)
        if owed is None:
            if not forwarding.upgraded:
                client.no_upgrade()
            return forwarding.keep
        if forwarding.started:  # too late for an answer: let the client see that it is cut short
            record.flag, record.details = owed.flag, owed.details
            await client.abort()
            return False
        return await self._reply(client, head, body, record, owed)

    async def _reply(
        self, client: Client, head: RequestHead, body: Body, record: Record, reply: Reply
    ) -> bool:
        """Answer by ourselves, through the filters that the request has passed."""
        if record.decided is not None and record.decided.filters:
            response = Response(reply.status, Headers(reply.headers))
            record.decided.edit(response)
            reply = reply._replace(headers=tuple(response.headers))
        record.answered(reply)
        record.sent = len(reply.body)
        unusable = reply.flag == "DPE" or head.method == "CONNECT" or head.expect_continue
        keep = head.keep_alive and not self._service.draining and not unusable
        await client.send(local_response(reply, head.method, close=not keep))
        client.no_upgrade()
        return keep and await client.discard(body)
