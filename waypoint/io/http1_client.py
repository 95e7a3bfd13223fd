"""An exchange with an endpoint over HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable

from waypoint.core.http1 import BadMessageError
from waypoint.core.http1_response import ResponseHead, ResponseReader
from waypoint.core.http1_write import write_chunk, write_last_chunk, write_request
from waypoint.core.message import Request, Response
from waypoint.core.reset import Reset
from waypoint.io.duplex import STREAM_ERRORS, Duplex, Inlet, drop_now, send
from waypoint.io.upstream_stream import ResponseEvent, UpstreamResetError


class Http1Stream:
    """One exchange on a connection that carries one at a time: an ``UpstreamStream``."""

    def __init__(
        self, stream: Duplex, inlet: Inlet, *, reused: bool, over: Callable[[bool], None]
    ) -> None:
        """``over`` is told once at the end whether the connection can be used again."""
        self.reused = reused
        self.answered = False
        self._stream = stream
        self._inlet = inlet
        self._over = over
        self._out = bytearray()
        self._chunked = False
        self._sent = False
        self._reader: ResponseReader | None = None
        self._ended = False

    def begin(self, request: Request) -> None:
        """See ``UpstreamStream``."""
        self._out += write_request(request)
        self._chunked = request.has_body and request.content_length is None
        self._sent = not request.has_body
        self._reader = ResponseReader(request.method)

    async def takes_upgrades(self) -> bool:
        """See ``UpstreamStream``."""
        return True

    @property
    def _open(self) -> ResponseReader:
        assert self._reader is not None, "begin comes first"
        return self._reader

    def data(self, data: bytes) -> None:
        """See ``UpstreamStream``."""
        self._out += write_chunk(data) if self._chunked else data

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """See ``UpstreamStream``."""
        if self._chunked:
            self._out += write_last_chunk(trailers)
        self._sent = True

    async def flush(self) -> None:
        """See ``UpstreamStream``."""
        out, self._out = self._out, bytearray()
        try:
            await send(self._stream, out)
        except STREAM_ERRORS as error:
            raise UpstreamResetError(Reset.CONNECTION_TERMINATION, str(error)) from None

    async def receive(self) -> list[ResponseEvent]:
        """See ``UpstreamStream``."""
        reader, found = self._open, None
        while not found:
            try:
                data = await self._inlet.receive()  # whatever was there has been taken
            except STREAM_ERRORS as error:
                raise UpstreamResetError(Reset.CONNECTION_TERMINATION) from error
            self._feed(reader, data)
            found = reader.take()
        return [_response(event) if isinstance(event, ResponseHead) else event for event in found]

    def _feed(self, reader: ResponseReader, data: bytes) -> None:
        if data:
            self.answered = True
            try:
                reader.feed(data)
            except BadMessageError as bad:
                raise UpstreamResetError(Reset.PROTOCOL_ERROR, bad.details) from None
        elif not reader.eof():
            raise UpstreamResetError(Reset.CONNECTION_TERMINATION)

    def release(self) -> None:
        """See ``UpstreamStream``."""
        self._end(self._sent and not self._out and self._open.reusable)

    def reset(self) -> None:
        """See ``UpstreamStream``."""
        self._end(False)

    def _end(self, usable: bool) -> None:
        if not self._ended:
            self._ended = True
            if not usable:
                drop_now(self._stream)
            self._over(usable)

    def take_over(self) -> tuple[Duplex, bytes]:
        """See ``UpstreamStream``."""
        return self._stream, self._open.take_rest()


def _response(head: ResponseHead) -> Response:
    empty = head.bodiless or head.content_length == 0
    return Response(head.status, head.headers, head.reason, head.content_length, empty)
