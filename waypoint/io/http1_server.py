"""An HTTP/1.1 connection of a client: its requests one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ambient.hbone.io.stream import HboneStream
from waypoint.core.http1 import BadMessageError, RequestEvent, RequestReader
from waypoint.core.http1_write import write_chunk, write_last_chunk, write_response
from waypoint.core.message import End, RequestHead, Response
from waypoint.core.stream_limits import HEAD_TIMEOUT, StreamLimits
from waypoint.io.downstream import Body, ClientGoneError
from waypoint.io.duplex import STREAM_ERRORS, Duplex, Inlet, abort, send
from waypoint.io.fiber import Limit, drive, in_task, now_s
from waypoint.io.service import Service

FIRST_REQUEST_S: Final = 2.0
"""A connection that was just opened gets its first request answered even while we drain."""
DISCARD_BYTES: Final = 256 * 1024
"""Rest of a request's body that is read and dropped to keep a connection usable."""
DISCARD_S: Final = 5.0
LINGER_S: Final = 2.0
"""Reading on after the last response, so that the client gets to read it before a reset."""


class _Wire:
    """The bytes of one connection, both ways."""

    def __init__(self, stream: HboneStream, first: bytes) -> None:
        self.stream = stream
        self.reader = RequestReader()
        self._inlet = Inlet(stream)
        self.ended = False
        self.closed = False
        self.leaving = False
        """We drain, and nobody waits for us here any more."""
        self._interrupted = False
        self.begun: Callable[[], None] | None = None
        """Called when more bytes come, once."""
        self.reader.feed(first)

    async def next_event(self) -> RequestEvent | None:
        """The next event of the connection; None at its end.

        Raises BadMessageError, and ClientGoneError where the connection broke.
        """
        while (event := self.reader.next()) is None and not self.ended:
            if self.leaving and self.reader.idle:
                return None
            await self._read()
        return event

    async def _read(self) -> None:
        try:
            data = await self._inlet.receive()
        except STREAM_ERRORS:
            raise ClientGoneError from None
        if data:
            if self.begun is not None:
                begun, self.begun = self.begun, None
                begun()
            self.reader.feed(data)
        elif self._interrupted:
            self._interrupted = False
        else:
            self.ended = True

    def leave(self) -> None:
        """Wait for no more requests."""
        self.leaving = True
        self._interrupted = True
        self.stream.interrupt()

    def poll_body(self) -> bytes | End | None:
        """See ``BodySource``."""
        event = self.reader.next()
        assert not isinstance(event, RequestHead)
        return event

    async def wait_body(self) -> None:
        """See ``BodySource``."""
        if self.ended:
            raise ClientGoneError
        await self._read()

    async def send(self, data: bytes | bytearray) -> None:
        """Send bytes. Raises ClientGoneError."""
        try:
            await send(self.stream, data)
        except STREAM_ERRORS:
            raise ClientGoneError from None

    async def finish(self) -> None:
        """End the connection so that the client can read everything that was sent."""
        try:
            async with in_task():
                await self.stream.send_eof()
                with trio.move_on_after(LINGER_S):
                    while not self.ended:
                        data = await self._inlet.receive()  # and drop it
                        self.ended = not data and not self._interrupted
                        self._interrupted = self._interrupted and bool(data)
                await self.stream.aclose()
        except STREAM_ERRORS:
            pass
        self.closed = True

    def abort(self) -> None:
        """End the connection so that the client sees that something is missing."""
        if not self.closed:
            self.closed = True
            abort(self.stream)


class Http1Exchange:
    """One request and its response: a ``Downstream``."""

    def __init__(self, wire: _Wire, head: RequestHead, draining: Callable[[], bool]) -> None:
        self.head = head
        self.body = Body(wire, present=head.has_body)
        if not head.has_body:
            wire.reader.next()  # the end, which is known already
        self.started = False
        self.closing = False
        self._wire = wire
        self._draining = draining
        self._out = bytearray()
        self._chunked = False
        self._silent = head.method == "HEAD"
        self._complete = False
        self._cut = False
        self._continued = False
        self.taken_over = False

    @property
    def keep(self) -> bool:
        """Can the connection go on after this exchange, once the request's body is read?"""
        return self._complete and not (self.closing or self._cut or self.taken_over)

    def attend(self, limit: Limit) -> None:
        """See ``Downstream``. A client that only ended its direction still waits."""
        self._wire.stream.on_failure = limit.cancel

    def begin(self, response: Response) -> None:
        """See ``Downstream``."""
        if response.status < 200 and response.informational:
            self._continued = self._continued or response.status == 100
            self._out += write_response(response)
            return
        head = self.head
        if self._draining() or not head.keep_alive or head.method == "CONNECT":
            self.closing = True
        if head.expect_continue and not self._continued and not self.body.complete:
            self.closing = True  # whether the client sends its body now is unknown
        bodiless = response.status in (101, 204, 304)
        self._silent = self._silent or response.status in (204, 304)  # whatever HTTP/2 frames say
        length = None if response.status in (101, 204) else response.content_length
        if response.end and length is None and not bodiless:
            length = None if self._silent else 0
        self._chunked = not (response.end or bodiless or self._silent) and length is None
        self._out += write_response(
            response, length=length, chunked=self._chunked, close=self.closing
        )
        self.started = True
        self._complete = response.end

    def data(self, data: bytes) -> None:
        """See ``Downstream``."""
        if not self._silent:
            self._out += write_chunk(data) if self._chunked else data

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """See ``Downstream``."""
        if self._chunked:
            self._out += write_last_chunk(trailers)
        self._complete = True

    async def flush(self) -> None:
        """See ``Downstream``."""
        if self._out:
            out, self._out = self._out, bytearray()
            await self._wire.send(out)

    def reset(self) -> None:
        """See ``Downstream``."""
        self._cut = True

    def take_over(self) -> tuple[Duplex, bytes]:
        """See ``Downstream``."""
        self.taken_over = self._wire.closed = True
        return self._wire.stream, self._wire.reader.take_rest()

    async def settle(self) -> bool:
        """After the exchange: get the connection to the next request; False if that fails."""
        self._wire.stream.on_failure = None
        if not self.keep:
            return False
        self._wire.reader.resume()  # an upgrade that did not happen
        body = self.body
        if body.complete:
            return True
        start = body.received
        with Limit(trio.current_time() + DISCARD_S):
            try:
                while not body.complete and body.received - start < DISCARD_BYTES:
                    await body.next()
            except (BadMessageError, ClientGoneError):
                return False
        return body.complete

    @property
    def cut(self) -> bool:
        """Was the response cut short?"""
        return self._cut


class Http1Server:
    """Serves one connection until the client ends it, breaks it, or we drain."""

    def __init__(
        self,
        service: Service,
        stream: HboneStream,
        serve: Callable[[Http1Exchange], Awaitable[None]],
        refused: Callable[[BadMessageError], tuple[Response, bytes]],
        limits: Callable[[], StreamLimits],
    ) -> None:
        """``serve`` answers one exchange; ``refused`` gives head and body of the answer to what
        is no request; ``limits`` are those of now."""
        self._service = service
        self._stream = stream
        self._serve = serve
        self._refused = refused
        self._limits = limits
        self._served = False

    async def run(self, first: bytes = b"") -> None:
        """``first`` is what was read from the stream already."""
        await drive(self._stream.relay, self._run(first))

    async def _run(self, first: bytes) -> None:
        wire = _Wire(self._stream, first)
        try:
            while (head := await self._next_head(wire)) is not None:
                self._served = True
                exchange = Http1Exchange(wire, head, self._draining)
                await self._serve(exchange)
                if exchange.cut:
                    return
                if not await exchange.settle():
                    break
            if not wire.closed:
                await wire.finish()
        except ClientGoneError:
            pass
        finally:
            wire.abort()

    def _draining(self) -> bool:
        return self._service.draining

    async def _next_head(self, wire: _Wire) -> RequestHead | None:
        """The next request; None where there is none, or none that we accept."""
        event = None
        self._service.rest(wire.leave, 0.0 if self._served else FIRST_REQUEST_S)
        try:
            limits = self._limits()
            if limits:
                event = await _in_time(wire, limits)
            else:
                event = await wire.next_event()  # a request that has begun is served
        except BadMessageError as bad:
            response, body = self._refused(bad)
            await wire.send(write_response(response, length=len(body), close=True) + body)
        finally:
            self._service.rested(wire.leave)
        assert event is None or isinstance(event, RequestHead)
        return event


async def _in_time(wire: _Wire, limits: StreamLimits) -> RequestEvent | None:
    """The next head; None where none has begun in time. Raises BadMessageError where it has begun
    and takes too long."""
    event = None
    waiting = wire.reader.idle
    with Limit(now_s() + (limits.rest_s if waiting else limits.head_s)) as limit:
        if waiting:
            wire.begun = lambda: limit.move(now_s() + limits.head_s)
        event = await wire.next_event()
    wire.begun = None
    if limit.cancelled_caught and not wire.reader.idle:
        raise BadMessageError(HEAD_TIMEOUT.status, HEAD_TIMEOUT.details)
    return event
