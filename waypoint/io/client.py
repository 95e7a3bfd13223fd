"""The client's side of an HTTP connection: requests come in, responses go out, in order."""

from __future__ import annotations

from email.utils import formatdate

import trio

from waypoint.core.http1 import BadMessageError, End, RequestEvent, RequestHead, RequestReader
from waypoint.core.http1_write import write_response
from waypoint.core.message import Headers, Reply, Response
from waypoint.io.duplex import READ_BYTES, STREAM_ERRORS, Duplex, abort

REPLAY_BYTES = 64 * 1024
"""A request's body up to this size can be sent again on another connection."""
DISCARD_BYTES = 256 * 1024
"""Rest of a request's body that is read and dropped to keep a connection usable."""
DISCARD_S = 5.0
LINGER_S = 2.0
"""Reading on after the last response, so that the client gets to read it before a reset."""
GONE_CHECK_S = 1.0
"""How often a client is looked at that cannot be read from any more."""
AHEAD_BYTES = 64 * 1024
"""Requests that a client may send ahead while it waits for a response."""


class ClientGoneError(Exception):
    """The client closed or reset its connection in the middle of an exchange."""


class Body:
    """The content of the request that is read at the moment; kept for a second try if short."""

    def __init__(self, client: Client, present: bool) -> None:
        self._client = client
        self._seen: list[bytes | End] | None = []
        self._size = 0
        self.complete = not present
        self.received = 0

    @property
    def replayable(self) -> bool:
        """Can everything that was read be sent again?"""
        return self._seen is not None

    def seen(self) -> list[bytes | End]:
        """What was read in an earlier try, to start another one with."""
        assert self._seen is not None
        return list(self._seen)

    async def next(self) -> bytes | End:
        """The next piece. Raises ClientGoneError and BadMessageError."""
        event = await self._client.next_event()
        if event is None:
            raise ClientGoneError
        assert not isinstance(event, RequestHead)
        if isinstance(event, End):
            self.complete = True
        else:
            self.received += len(event)
        if self._seen is not None:
            self._size += len(event) if isinstance(event, bytes) else 0
            self._seen.append(event)
            if self._size > REPLAY_BYTES:
                self._seen = None
        return event


class Client:
    """One connection of a client."""

    def __init__(self, stream: Duplex, first: bytes) -> None:
        self._stream = stream
        self._reader = RequestReader()
        self._ended = False
        self._closed = False
        self._reader.feed(first)

    async def next_event(self) -> RequestEvent | None:
        """The next event of the connection; None at its end.

        Raises BadMessageError, and ClientGoneError where the connection broke.
        """
        while True:
            event = self._reader.next()
            if event is not None:
                return event
            if self._ended:
                return None
            await self._read()

    async def _read(self) -> int:
        try:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        except STREAM_ERRORS:
            raise ClientGoneError from None
        if data:
            self._reader.feed(data)
        else:
            self._ended = True
        return len(data)

    @property
    def idle(self) -> bool:
        """Is no request waiting or half read?"""
        return self._reader.idle

    async def watch(self) -> None:
        """Read ahead, to notice a client that goes away. Raises ClientGoneError.

        A client that only ended its own direction still waits for the response.
        """
        ahead = 0
        while not self._ended and ahead < AHEAD_BYTES:
            ahead += await self._read()
        while True:
            await self.send(b"")  # raises once the connection is gone
            await trio.sleep(GONE_CHECK_S)

    async def send(self, data: bytes) -> None:
        """Send bytes. Raises ClientGoneError."""
        try:
            await self._stream.send_all(data)
        except STREAM_ERRORS:
            raise ClientGoneError from None

    async def discard(self, body: Body) -> bool:
        """Read the rest of a request's body; False where that is not worth it."""
        if body.complete:
            return True
        start = body.received
        with trio.move_on_after(DISCARD_S):
            try:
                while not body.complete and body.received - start < DISCARD_BYTES:
                    await body.next()
            except (BadMessageError, ClientGoneError):
                return False
        return body.complete

    def no_upgrade(self) -> None:
        """The server answered an upgrade in HTTP, so HTTP goes on."""
        self._reader.resume()

    def take_over(self) -> tuple[Duplex, bytes]:
        """After an upgrade: the stream, and what was read ahead of it."""
        self._closed = True
        return self._stream, self._reader.take_rest()

    async def finish(self) -> None:
        """End the connection so that the client can read everything that was sent."""
        try:
            await self._stream.send_eof()
            with trio.move_on_after(LINGER_S):
                while not self._ended and await self._stream.receive_some(READ_BYTES):
                    pass
            await self._stream.aclose()
        except STREAM_ERRORS:
            pass
        self._closed = True

    async def abort(self) -> None:
        """End the connection so that the client sees that something is missing."""
        if not self._closed:
            self._closed = True
            await abort(self._stream)


def local_response(reply: Reply, method: str, *, close: bool) -> bytes:
    """An answer of our own, as bytes."""
    body = reply.body.encode()
    headers = Headers(reply.headers)
    if body and "content-type" not in headers:
        headers.add("content-type", "text/plain")
    finish_headers(headers)
    head = write_response(Response(reply.status, headers), length=len(body), close=close)
    return head if method == "HEAD" else head + body


def finish_headers(headers: Headers) -> None:
    """What every response carries: Date, and Server as Istio's proxies say it."""
    headers.set("server", "istio-envoy")
    if "date" not in headers:
        headers.add("date", formatdate(usegmt=True))
