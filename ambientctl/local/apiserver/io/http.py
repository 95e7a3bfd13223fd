"""HTTP/1.1 over TLS: one task for each connection, a watch is a chunked answer."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from email.utils import formatdate
from typing import Final, Protocol

import h11
import trio

from ambient.telemetry.io.logs import get_logger
from ambientctl.local.apiserver.core.requests import (
    BODY_MAX_BYTES,
    Request,
    Response,
    json_response,
    read_request,
)
from ambientctl.local.apiserver.core.status import bad_request, internal_error, too_large

HEADERS_MAX_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024
HANDSHAKE_S: Final = 10.0
IDLE_S: Final = 600.0
"""A connection without a request for so long is closed; clients open another."""
CLOSE_S: Final = 2.0
CONNECTIONS_MAX: Final = 1000
"""Clients at once; more wait for a place. A mesh of ten nodes keeps about a hundred open."""

log = get_logger("local")


class Body:
    """An answer whose body comes piece by piece, until the client goes or the pieces end."""

    def __init__(self, media_type: str, chunks: AsyncGenerator[bytes, None]) -> None:
        self.media_type = media_type
        self.chunks = chunks


class Upgrade(Protocol):
    """An answer that takes the connection over."""

    async def serve(
        self, client: trio.abc.Stream, headers: list[tuple[bytes, bytes]], target: str
    ) -> None:
        """Speak the other protocol until its end; HTTP is over on this connection."""


Handler = Callable[[Request], Awaitable[Response | Body | Upgrade]]

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)


async def serve_https(
    listeners: list[socket.socket], context: ssl.SSLContext, handler: Handler
) -> None:
    """Serve until cancelled; a connection's trouble ends that connection only."""

    room = trio.Semaphore(CONNECTIONS_MAX)

    async def serve_connection(stream: trio.SocketStream) -> None:
        async with room:
            await serve_one(stream)

    async def serve_one(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(HANDSHAKE_S):
                await tls.do_handshake()
            await _Connection(tls, handler).run()
        except* (*_GONE, trio.TooSlowError, h11.RemoteProtocolError):
            pass  # the client has gone or never spoke TLS: nobody is left to tell
        except* Exception:
            log.exception("apiserver.stream_failed")  # such as a log that cannot be read any more
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.aclose_forcefully(tls)

    accepting = [trio.SocketListener(_trio_socket(sock)) for sock in listeners]
    await trio.serve_listeners(serve_connection, accepting)


def _trio_socket(sock: socket.socket) -> trio.socket.SocketType:
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)


class _Connection:
    """One client connection: requests one after the other."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream], handler: Handler) -> None:
        self._tls = tls
        self._handler = handler
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS_MAX_BYTES)

    async def run(self) -> None:
        """Serve until the client leaves or breaks the protocol."""
        while True:
            try:
                request = await self._read_request()
            except h11.RemoteProtocolError as error:
                await self._refuse(json_response(400, bad_request(str(error)).body()))
                return
            if request is None:
                return
            if isinstance(request, Response):
                await self._refuse(request)
                return
            answer = await self._answer(request)
            if isinstance(answer, Body):
                await self._send_stream(answer)
            elif not isinstance(answer, Response):
                assert self._head is not None
                headers = [(bytes(name), bytes(value)) for name, value in self._head.headers]
                await answer.serve(self._tls, headers, self._head.target.decode("latin-1"))
                return
            else:
                await self._send(answer, with_body=request.method != "HEAD")
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _answer(self, request: Request) -> Response | Body | Upgrade:
        """Ask the handler; its mistakes become a 500."""
        try:
            return await self._handler(request)
        except Exception:
            log.exception("apiserver.failed", method=request.method, path=request.path)
            return json_response(500, internal_error().body())

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                await self._tls.send_all(self._http.send(go_on) or b"")
            with trio.fail_after(IDLE_S):
                self._http.receive_data(bytes(await self._tls.receive_some(READ_BYTES)))

    async def _read_request(self) -> Request | Response | None:
        """The next request; None when the client has finished, a Response when it goes too far."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        self._head = head
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > BODY_MAX_BYTES:
                return json_response(413, too_large(BODY_MAX_BYTES).body())
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        target = head.target.decode("latin-1")
        return read_request(head.method.decode(), target, headers, bytes(body))

    async def _refuse(self, response: Response) -> None:
        """Answer a request that could not be read, and end the connection."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send(response, close=True)

    async def _send(
        self, response: Response, *, with_body: bool = True, close: bool = False
    ) -> None:
        """Send a complete answer in one piece."""
        headers = [
            ("content-type", response.media_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-cache, private"),
            ("date", formatdate(usegmt=True)),
            *(("warning", f'299 - "{_quoted(text)}"') for text in response.warnings),
        ]
        if close:
            headers.append(("connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers)
        data = self._http.send(head) or b""
        if with_body:
            data += self._http.send(h11.Data(data=response.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._tls.send_all(data)

    async def _send_stream(self, body: Body) -> None:
        """Send pieces as they come, and notice at once when the client leaves."""
        headers = [("content-type", body.media_type), ("cache-control", "no-cache, private")]
        head = h11.Response(status_code=200, headers=[*headers, ("transfer-encoding", "chunked")])
        await self._tls.send_all(self._http.send(head) or b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            # Closed here and now, so that a watch whose client has gone is forgotten at once.
            async with aclosing(body.chunks) as chunks:
                async for chunk in chunks:
                    await self._tls.send_all(self._http.send(h11.Data(data=chunk)) or b"")
            nursery.cancel_scope.cancel(reason="the stream has ended")
        if self._http.our_state is h11.SEND_BODY and not self._left:
            await self._tls.send_all(self._http.send(h11.EndOfMessage()) or b"")

    _left = False
    _head: h11.Request | None = None

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        """Wait for the client to leave; anything it sends early waits for its turn."""
        try:
            while data := await self._tls.receive_some(READ_BYTES):
                self._http.receive_data(bytes(data))
        except _GONE:
            pass
        self._left = True
        scope.cancel(reason="the client has gone")


def _quoted(text: str) -> str:
    """Text for a quoted string in a Warning header: printable ASCII on one line."""
    printable = text.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    return printable.replace("\r", " ").replace("\n", " ")
