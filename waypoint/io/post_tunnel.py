"""Bytes through a forward proxy that takes POST instead of CONNECT: in chunks, both ways."""

from __future__ import annotations

import trio

from ambient.hbone.core.frames import ErrorCode
from waypoint.core.http1 import BadMessageError
from waypoint.core.http1_response import ResponseHead, ResponseReader
from waypoint.core.http1_write import write_chunk, write_last_chunk
from waypoint.core.message import End
from waypoint.core.opening import OK, OpeningRefusedError, ProxyTunnel, post_request
from waypoint.io.duplex import Duplex, Ending, drop_now


class PostTunnel(Ending):
    """A ``Duplex``; made by ``open_tunnel``."""

    def __init__(self, stream: Duplex, reader: ResponseReader) -> None:
        self._stream = stream
        self._reader = reader
        self._ended = False

    async def send_all(self, data: bytes) -> None:
        """See ``Duplex``."""
        await self._stream.send_all(write_chunk(data))

    async def send_eof(self) -> None:
        """See ``Duplex``. The proxy learns it from the last chunk; its connection stays."""
        if not self._ended:
            self._ended = True
            await self._stream.send_all(write_last_chunk())

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See ``Duplex``. As much as came at once."""
        while True:
            event = await _next(self._stream, self._reader)
            if event is None or isinstance(event, End):
                return b""
            if isinstance(event, bytes) and event:
                return event

    async def aclose(self) -> None:
        """See ``Duplex``."""
        await self._stream.aclose()

    def end_now(self, code: ErrorCode) -> None:
        """See ``Ending``."""
        drop_now(self._stream)


async def open_tunnel(stream: Duplex, tunnel: ProxyTunnel) -> PostTunnel:
    """Have a proxy connect. Raises OSError where it does not; the stream is then closed."""
    reader = ResponseReader("POST")
    try:
        await stream.send_all(post_request(tunnel))
        head = await _next(stream, reader)
        while isinstance(head, ResponseHead) and head.informational:
            head = await _next(stream, reader)
        if not isinstance(head, ResponseHead):
            raise OpeningRefusedError("the proxy gave no answer to POST")
        if head.status not in OK:
            text = f"{head.status} {head.reason}".strip()
            raise OpeningRefusedError(f"the proxy answers POST with {text}")
    except trio.BrokenResourceError as broken:
        drop_now(stream)
        raise OpeningRefusedError(f"the proxy's answer to POST is broken: {broken}") from None
    except BaseException:
        drop_now(stream)
        raise
    return PostTunnel(stream, reader)


async def _next(stream: Duplex, reader: ResponseReader) -> ResponseHead | bytes | End | None:
    """The next event of the response; None at the end of the stream. Raises BrokenResourceError."""
    try:
        while (event := reader.next()) is None:
            data = await stream.receive_some()
            if data:
                reader.feed(bytes(data))
            elif not reader.eof():
                raise trio.BrokenResourceError("it ended early")
            elif (event := reader.next()) is None:
                return None
            else:
                break
    except BadMessageError as bad:
        raise trio.BrokenResourceError(bad.details) from None
    return event
