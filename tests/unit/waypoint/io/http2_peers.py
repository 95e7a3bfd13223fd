"""HTTP/2 clients and applications on the h2 library, to meet the waypoint's own HTTP/2."""

from __future__ import annotations

import json
from collections import defaultdict

import h2.config
import h2.connection
import h2.events
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

GET = {":method": "GET", ":scheme": "http", ":path": "/", ":authority": "reviews:9080"}


def fields(head: dict[str, str] | list[tuple[str, str]]):
    return list(head.items()) if isinstance(head, dict) else head


class Answer:
    """What came back on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.informational: list[dict[str, str]] = []
        self.body = b""
        self.trailers: dict[str, str] = {}
        self.reset: int | None = None
        self.ended = False

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def json(self):
        return json.loads(self.body)


class Http2Caller:
    """An HTTP/2 client on one stream of bytes; ``run`` has to be running."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.closed = False
        self.credit = True
        self.behind_goaway = b""
        """Bytes that arrived after a GOAWAY; the h2 library does not read on then."""
        self._news = trio.Condition()
        self._sending = trio.Lock()

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        self.h2.initiate_connection()
        await self.flush()
        task_status.started()
        try:
            while data := await self.stream.receive_some():
                if self.goaway is not None:
                    self.behind_goaway += data
                    continue
                try:
                    events = self.h2.receive_data(data)
                except ProtocolError:
                    break
                for event in events:
                    self._on(event)
                async with self._news:
                    self._news.notify_all()
                await self.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed = True
        async with self._news:
            self._news.notify_all()

    def _on(self, event) -> None:
        answer = self.answers[getattr(event, "stream_id", 0) or 0]
        match event:
            case h2.events.InformationalResponseReceived():
                answer.informational.append(dict(event.headers))
            case h2.events.ResponseReceived():
                answer.headers = dict(event.headers)
            case h2.events.DataReceived():
                answer.body += event.data
                if self.credit and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                answer.trailers = dict(event.headers)
            case h2.events.StreamEnded():
                answer.ended = True
            case h2.events.StreamReset():
                answer.reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.goaway = event

    async def flush(self) -> None:
        async with self._sending:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def until(self, condition) -> None:
        async with self._news:
            while not condition():
                assert not self.closed, "the connection has ended"
                await self._news.wait()

    async def send(self, head=(), body: bytes | None = None, end=True, trailers=None) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        sent = list((GET | head).items()) if isinstance(head, dict) else list(head) or fields(GET)
        self.h2.send_headers(stream_id, sent, end_stream=body is None and end)
        if body is not None:
            self.h2.send_data(stream_id, body, end_stream=end and not trailers)
        if trailers:
            self.h2.send_headers(stream_id, trailers, end_stream=True)
        await self.flush()
        return stream_id

    async def answer(self, stream_id: int) -> Answer:
        await self.until(lambda: self.answers[stream_id].over)
        return self.answers[stream_id]

    async def get(self, path="/", **more) -> Answer:
        head = {":path": path} | {k.replace("_", "-"): v for k, v in more.items()}
        return await self.answer(await self.send(head))


async def http2_caller(mesh, authority="10.96.0.10:9080") -> Http2Caller:
    caller = Http2Caller(await mesh.open(authority))
    await mesh.nursery.start(caller.run)
    return caller


def http2_app(version: str, seen: list | None = None, resets: list | None = None):
    """Answers each request with what it received, at its end; ``/reset`` and the like misbehave."""

    left = False

    async def app(stream: trio.SocketStream) -> None:
        nonlocal left
        server = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        server.initiate_connection()
        await stream.send_all(server.data_to_send())
        requests: dict[int, dict] = {}
        while data := await stream.receive_some():
            for event in server.receive_data(data):
                match event:
                    case h2.events.RequestReceived():
                        requests[event.stream_id] = {
                            "headers": dict(event.headers),
                            "size": 0,
                            "trailers": {},
                            "version": version,
                        }
                        if seen is not None:
                            seen.append(requests[event.stream_id])
                        path = dict(event.headers)[":path"]
                        if path == "/goaway" and not left:  # once, then the application is new
                            left = True
                            server.close_connection(last_stream_id=0)
                            await stream.send_all(server.data_to_send())
                            await stream.receive_some()
                            return
                        misbehave(server, event.stream_id, path)
                    case h2.events.DataReceived():
                        requests[event.stream_id]["size"] += len(event.data)
                        server.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case h2.events.TrailersReceived():
                        requests[event.stream_id]["trailers"] = dict(event.headers)
                    case h2.events.StreamReset():
                        if resets is not None:
                            resets.append(event.error_code)
                    case h2.events.StreamEnded():
                        reply(server, event.stream_id, requests.pop(event.stream_id))
            await stream.send_all(server.data_to_send())

    return app


def misbehave(server, stream_id: int, path: str) -> None:
    codes = {
        "/refused": ErrorCodes.REFUSED_STREAM,
        "/reset": ErrorCodes.CANCEL,
        "/internal": ErrorCodes.INTERNAL_ERROR,
    }
    if path in codes:
        server.reset_stream(stream_id, codes[path])
    elif path == "/cut":
        server.send_headers(stream_id, [(":status", "200")])
        server.send_data(stream_id, b"abc")
        server.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)


def reply(server, stream_id: int, request: dict) -> None:
    path = request["headers"][":path"]
    if path.strip("/") in ("refused", "reset", "internal", "cut", "silent"):
        return
    if path == "/trailers-only":
        head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")]
        server.send_headers(stream_id, head, end_stream=True)
        return
    body = json.dumps(request).encode()
    if path == "/early-hints":
        server.send_headers(stream_id, [(":status", "103"), ("link", "x")])
    length = len(body) + (7 if path == "/lies" else 0)
    server.send_headers(
        stream_id,
        [(":status", "200"), ("x-version", request["version"]), ("content-length", str(length))],
    )
    if request["headers"][":method"] == "HEAD":
        server.end_stream(stream_id)
        return
    server.send_data(stream_id, body)
    server.send_headers(stream_id, [("x-sum", "7")], end_stream=True)
