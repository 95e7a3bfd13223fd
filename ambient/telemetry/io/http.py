"""A small HTTP/1.1 server for admin, readiness and metrics: short requests, short answers.

It is for the mesh's own ports, not for its traffic: bodies are read whole, answers are whole,
one task a connection. Every limit is a constant below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

MAX_HEAD_BYTES: Final = 8192
"""Request line and headers (ztunnel: hyper's buffer on these ports)."""
MAX_BODY_BYTES: Final = 1 << 20
"""A capture request or a log level is far smaller."""
HEAD_TIMEOUT_S: Final = 2.0
"""From the first byte to the last header (ztunnel: header read timeout)."""
IDLE_TIMEOUT_S: Final = 60.0
"""Between two requests of a kept connection; Prometheus scrapes more often than that."""
BODY_TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 128
"""Per server; more wait in the listen backlog."""
READ_BYTES: Final = 16384

log = get_logger("http")


class Request(NamedTuple):
    """A request with its body. Header names are lower case; the last of equal ones counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""
    """The client's IP address; empty where the transport has none."""


class Response(NamedTuple):
    """An answer; ``headers`` come besides Content-Type and Content-Length."""

    status: int = 200
    body: bytes | str = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """A handler that chooses by path: 404 for unknown paths, 405 for other methods."""

    def __init__(self) -> None:
        self._by_path: dict[str, tuple[frozenset[str], Handler]] = {}

    def add(self, path: str, handler: Handler, *, methods: Sequence[str] = ("GET", "HEAD")) -> None:
        """Serve ``path``. An empty ``methods`` allows all."""
        self._by_path[path] = (frozenset(methods), handler)

    def include(self, other: Routes) -> None:
        """Serve everything that ``other`` serves."""
        self._by_path.update(other._by_path)

    @property
    def paths(self) -> list[str]:
        """Every path that is served."""
        return sorted(self._by_path)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        methods, handler = self._by_path.get(request.path, (frozenset[str](), _not_found))
        if methods and request.method not in methods:
            allow = (("Allow", ", ".join(sorted(methods))),)
            return Response(405, f"use {' or '.join(sorted(methods))}\n", headers=allow)
        return await handler(request)


async def _not_found(request: Request) -> Response:
    return Response(404, f"there is no {request.path} here\n")


async def serve_http(
    listeners: Sequence[trio.abc.Listener[Any]],
    handler: Handler,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on ``listeners`` until cancelled; the listeners are closed at the end.

    A listener may also give TLS streams.
    """
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def connection(stream: trio.abc.Stream) -> None:
        async with limit:
            await _Connection(stream, handler, max_body_bytes).run()

    task_status.started()
    await trio.serve_listeners(connection, list(listeners))


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Bind the port; ``host`` ``""`` means every address. Raises OSError."""
    return await trio.open_tcp_listeners(port, host=host or None)


class _Connection:
    """One client, until it closes, misbehaves or stays silent."""

    def __init__(
        self, stream: trio.abc.Stream, handler: Handler, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._stream = stream
        self._max_body_bytes = max_body_bytes
        self._handler = handler
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def run(self) -> None:
        try:
            while await self._exchange():
                self._h11.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client went away: nothing is owed to it.
        except h11.RemoteProtocolError as err:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._refuse(err.error_status_hint, str(err))
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _exchange(self) -> bool:
        """One request and its answer; False where the connection ends here."""
        head = await self._head()
        if head is None:
            return False
        body = bytearray()
        with trio.move_on_after(BODY_TIMEOUT_S) as timeout:
            while not isinstance(event := await self._event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return False
                body += event.data
                if len(body) > self._max_body_bytes:
                    await self._refuse(413, f"a body may have {self._max_body_bytes} bytes")
                    return False
        if timeout.cancelled_caught:
            return False
        await self._answer(head, await self._handle(head, bytes(body)))
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def _head(self) -> h11.Request | None:
        with trio.move_on_after(IDLE_TIMEOUT_S) as timeout:
            event = self._h11.next_event()
            while event is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some(READ_BYTES))
                if data:  # The head has begun: from now on the client has to hurry.
                    timeout.deadline = min(timeout.deadline, trio.current_time() + HEAD_TIMEOUT_S)
                self._h11.receive_data(data)
                event = self._h11.next_event()
            return event if isinstance(event, h11.Request) else None
        return None

    async def _event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send_all(self._h11.send(go_on) or b"")
            self._h11.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
        return event

    async def _handle(self, head: h11.Request, body: bytes) -> Response:
        target = urlsplit(head.target.decode("ascii", "replace"))
        request = Request(
            method=head.method.decode("ascii"),
            path=target.path or "/",
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers={n.decode("latin-1"): v.decode("latin-1") for n, v in head.headers},
            body=body,
            peer=_peer_ip(self._stream),
        )
        try:
            return await self._handler(request)
        except Exception:  # an admin page that fails must not end the program
            log.exception(Event.HTTP_HANDLER_FAILED, path=request.path)
            return Response(500, "this failed; the log of the program says why\n")

    async def _answer(self, head: h11.Request, response: Response) -> None:
        body = response.body.encode() if isinstance(response.body, str) else response.body
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(body))),
            *([] if any(name == "Date" for name, _ in response.headers) else [_date()]),
            *response.headers,
        ]
        wire = self._h11.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if head.method != b"HEAD":
            wire += self._h11.send(h11.Data(data=body)) or b""
        await self._stream.send_all(wire + (self._h11.send(h11.EndOfMessage()) or b""))

    async def _refuse(self, status: int, reason: str) -> None:
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"{reason}\n".encode()
        headers = [("Content-Length", str(len(body))), ("Connection", "close")]
        wire = self._h11.send(h11.Response(status_code=status, headers=headers)) or b""
        wire += self._h11.send(h11.Data(data=body)) or b""
        wire += self._h11.send(h11.EndOfMessage()) or b""
        with trio.move_on_after(HEAD_TIMEOUT_S):
            await self._stream.send_all(wire)
            # Closing with unread bytes resets the connection, and a reset may overtake the answer.
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            while await self._stream.receive_some(READ_BYTES):
                pass


def _date() -> tuple[str, str]:
    """Who has a clock tells it (RFC 9110, 6.6.1); checks compare those of a mesh."""
    return "Date", formatdate(usegmt=True)


def _peer_ip(stream: trio.abc.Stream) -> str:
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        address = stream.socket.getpeername()
        return str(address[0]) if isinstance(address, tuple) else ""  # a unix socket has none
    except OSError:
        return ""  # It went away; whoever asks for the address trusts nobody then.
