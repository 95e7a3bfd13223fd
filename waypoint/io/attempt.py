"""One attempt: one request to one endpoint, and its response on the way back, both streamed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from waypoint.core.cluster import Cluster
from waypoint.core.codec import Codec
from waypoint.core.host import Host
from waypoint.core.http1 import BadMessageError
from waypoint.core.message import End, Request, Response
from waypoint.core.reset import Reset
from waypoint.core.websocket import for_http1, from_http1
from waypoint.io.downstream import ClientGoneError, Downstream
from waypoint.io.duplex import abort, relay
from waypoint.io.fiber import in_task
from waypoint.io.http1_client import Http1Stream
from waypoint.io.upstream import Upstreams
from waypoint.io.upstream_stream import UpstreamResetError, UpstreamStream

IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""Methods that may be sent twice (RFC 9110, section 9.2.2)."""

Judge = Callable[[Response], bool]
"""Sees the final head of a response, before its client does, and may edit it. True passes the
response on; False gives it up, so that another attempt can be made."""


class Outcome(NamedTuple):
    """How an attempt ended.

    ``response``: the final head, where one came; ``passed``: the client got all of it (or, after
    an upgrade, both sides have ended); otherwise the judge refused it, or ``reset`` says what
    broke. ``sent`` counts the bytes of the body that the client was given.
    """

    response: Response | None = None
    passed: bool = False
    reset: Reset | None = None
    cause: str = ""


class Attempt:
    """Sends ``request`` to an endpoint of ``cluster``. The client's body may be sent by several
    attempts, as long as it is ``replayable``."""

    def __init__(
        self,
        upstreams: Upstreams,
        cluster: Cluster,
        client: Downstream,
        request: Request,
        codec: Codec = Codec.HTTP1,
    ) -> None:
        self._upstreams = upstreams
        self._cluster = cluster
        self._codec = codec
        self._client = client
        self._request = request
        self._begun = request
        """As it was sent."""
        self._response: Response | None = None
        """The final head of the attempt under way."""
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.watch: Callable[[bytes], None] | None = None
        """Sees the response's body."""
        self.beat: Callable[[], None] | None = None
        """Is told when a part of the response has come."""
        self.sent = 0
        """Bytes of the response's body that were passed on."""
        self.upgraded_received = 0
        """Bytes that went to the endpoint after an upgrade."""

    async def run(self, host: Host, judge: Judge) -> Outcome:
        """One attempt. Raises ClientGoneError and BadMessageError (of the client's body).

        A kept connection that ended before it can have taken notice of the request does not count:
        the request goes out once more on a new one.
        """
        body, request = self._client.body, self._request
        idempotent = request.method in IDEMPOTENT
        stream = None
        if not request.upgrade:
            stream = self._upstreams.at_hand(
                self._cluster, host, self._codec, careful=not idempotent
            )
        for fresh in (False, True):
            if stream is None:
                try:
                    stream = await self._open(host, fresh=fresh, careful=not idempotent)
                except UpstreamResetError as error:
                    return Outcome(reset=error.reason, cause=error.cause)
            outcome = await self._exchange(stream, judge)
            ended = outcome.reset is Reset.CONNECTION_TERMINATION and not stream.answered
            if not (ended and stream.reused and idempotent and body.replayable):
                break
            stream = None
        return outcome

    async def _open(self, host: Host, *, fresh: bool, careful: bool) -> UpstreamStream:
        """A stream; for another protocol one of HTTP/1.1 where HTTP/2 cannot carry it."""
        codec, cluster, request = self._codec, self._cluster, self._request
        while True:
            stream = await self._upstreams.open(
                cluster, host, codec, request, fresh=fresh, careful=careful
            )
            if not request.upgrade or codec is Codec.HTTP1:
                return stream
            usable = False
            try:
                usable = await stream.takes_upgrades()
            finally:
                if not usable:
                    stream.reset()
            if usable:
                return stream
            codec = Codec.HTTP1

    async def _exchange(self, stream: UpstreamStream, judge: Judge) -> Outcome:
        self._response = None
        released = False
        try:
            self._begun = self._request
            if self._request.upgrade and isinstance(stream, Http1Stream):
                self._begun = for_http1(self._request, secrets.token_bytes(16))
            stream.begin(self._begun)
            if not self._request.has_body or self._send_what_is_there(stream):
                await stream.flush()
                passed = await self._download(stream, judge)
            else:
                async with in_task():
                    passed = await self._move_both_ways(stream, judge)
            if not passed:
                return Outcome(self._response)
            if self._response is not None and self._response.status == 101:
                await self._tunnel(stream)
            else:
                stream.release()
                released = True
            return Outcome(self._response, passed=True)
        except UpstreamResetError as error:
            return Outcome(self._response, reset=error.reason, cause=error.cause)
        finally:
            if not released:
                stream.reset()

    async def _move_both_ways(self, stream: UpstreamStream, judge: Judge) -> bool:
        """The request there while the response may already come back."""
        uploading = _Upload(self._client, stream)
        passed, failure = False, None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uploading.run, nursery.cancel_scope)
            try:
                passed = await self._download(stream, judge)
            except (UpstreamResetError, ClientGoneError) as error:
                failure = error  # not through the nursery, which would make a group of it
            nursery.cancel_scope.cancel()
        if uploading.failure is not None:
            raise uploading.failure
        if failure is not None:
            raise failure
        return passed

    def _send_what_is_there(self, stream: UpstreamStream) -> bool:
        """Put what was read of the body behind the head; True if that is all of it."""
        body = self._client.body
        for event in body.seen():
            _send_piece(stream, event)
        while not body.complete and (more := body.poll()) is not None:
            _send_piece(stream, more)
        return body.complete

    async def _download(self, stream: UpstreamStream, judge: Judge) -> bool:
        """Stream the response: what one read gives leaves in one write. False where the judge
        refused it."""
        client, ended = self._client, False
        while not ended:
            events = await stream.receive()
            if self.beat is not None:
                self.beat()
            for event in events:
                if isinstance(event, bytes):
                    self.sent += len(event)
                    if self.watch is not None:
                        self.watch(event)
                    client.data(event)
                elif isinstance(event, End):
                    self.trailers = event.trailers
                    client.end(event.trailers)
                    ended = True
                    break
                elif event.status < 200 and event.informational:
                    client.begin(event)
                else:
                    if event.status == 101 or self._request.upgrade:
                        self._check_upgrade(event)
                    self._response = event
                    if not judge(event):
                        return False
                    client.begin(event)
                    if event.end:
                        ended = True
                        break
            await client.flush()
        return True

    def _check_upgrade(self, response: Response) -> None:
        """Raises UpstreamResetError where the client would be misled about its protocol."""
        request = self._request
        if response.status == 101:
            if not request.upgrade:
                raise UpstreamResetError(Reset.PROTOCOL_ERROR, "unexpected_upgrade")
            if not from_http1(response, request, self._begun):
                raise UpstreamResetError(Reset.PROTOCOL_ERROR, "wrong_sec_websocket_accept")
        elif request.upgrade and self._client.head.version == "2" and response.status < 300:
            # To an extended CONNECT, any 2xx says that the protocol has changed.
            raise UpstreamResetError(Reset.PROTOCOL_ERROR, "upgrade_refused")

    async def _tunnel(self, stream: UpstreamStream) -> None:
        """After a 101: bytes both ways until both sides have ended."""
        left, from_client = self._client.take_over()
        right, from_endpoint = stream.take_over()
        async with in_task():
            copied = await relay(left, right, (from_client, from_endpoint))
            self.upgraded_received += copied.right
            self.sent += copied.left
            if copied.broken is None:
                await left.aclose()
            else:
                abort(left)


class _Upload:
    """The request's body on its way, while the response may already come back."""

    def __init__(self, client: Downstream, stream: UpstreamStream) -> None:
        self._client = client
        self._stream = stream
        self.failure: ClientGoneError | BadMessageError | None = None

    async def run(self, exchange: trio.CancelScope) -> None:
        """Send all of it. A client that fails ends the exchange; an endpoint that does not read
        may have answered early, which the response tells."""
        body, stream = self._client.body, self._stream
        try:
            await stream.flush()
            while not body.complete:
                _send_piece(stream, await body.next())
                await stream.flush()
        except UpstreamResetError:
            pass
        except (ClientGoneError, BadMessageError) as error:
            self.failure = error
            exchange.cancel()


def _send_piece(stream: UpstreamStream, event: bytes | End) -> None:
    if isinstance(event, bytes):
        stream.data(event)
    else:
        stream.end(event.trailers)
