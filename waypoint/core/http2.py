"""HTTP/2 with requests and responses on its streams (RFC 9113), as server or client, without I/O.

Frames, windows, limits and floods are those of ``ambient.hbone``; this adds what a stream means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from ambient.hbone.core.errors import HboneStreamError, ProtocolError
from ambient.hbone.core.flow import FlowStream
from ambient.hbone.core.frames import (
    END_STREAM,
    HEAD,
    ErrorCode,
    Frame,
)
from ambient.hbone.core.limits import Limits
from ambient.hbone.core.streams import LinkListener, Streams
from waypoint.core.field_block import encode
from waypoint.core.field_decoder import FieldDecoder
from waypoint.core.http1 import BadMessageError
from waypoint.core.http2_head import (
    Fields,
    MalformedError,
    TooLargeError,
    read_request,
    read_response,
    read_trailers,
    request_fields,
    response_fields,
    sendable,
)
from waypoint.core.message import End, Request, RequestHead, Response
from waypoint.core.message_limits import LIMITS

_LIMITS: Final = Limits(
    max_header_list=LIMITS.head_bytes,
    max_streams=1024,
    stream_window=256 * 1024,
    connection_window=4 * 1024 * 1024,
    max_frame=64 * 1024,
    connect_protocol=True,
)
"""Envoy's number of streams; windows of our own choice: enough for the way to a neighbour, little
enough to hold for many streams."""
DECODED: Final = 4
"""Heads up to so many times the limit cost their stream; larger ones the connection."""


def server_limits() -> Limits:
    """Of a connection of a client."""
    return _LIMITS._replace(max_header_list=LIMITS.head_bytes)


def client_limits() -> Limits:
    """Of a connection to an endpoint."""
    return server_limits()._replace(max_streams=0)


StreamEvent = Response | bytes | End
Head = RequestHead | Response
KNOWN_HEADS: Final = 64


class BrokenRulesError(HboneStreamError):
    """The peer sent a message that HTTP forbids; we have reset its stream."""


def _nobody() -> None:
    """Nobody waits for the stream."""


class HttpStream(FlowStream):
    """One exchange. What arrives waits in a queue that the stream's window bounds.

    ``wake`` is called when there may be something to ``take``, when ``error`` was set, and when
    there may be room to send.
    """

    __slots__ = (
        "_events", "_expected", "_head_request", "error", "head", "trailers", "upgrade", "wake",
    )  # fmt: skip

    def __init__(self, connection: Http2, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.sink = self
        self.head: RequestHead | None = None
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.error: HboneStreamError | None = None
        self.wake: Callable[[], None] = _nobody
        self._events: deque[StreamEvent] = deque()
        self._expected: int | None = None
        self._head_request = False
        self.upgrade = ""
        """The protocol that an extended CONNECT asked for."""

    @property
    def http2(self) -> Http2:
        """The stream's connection."""
        connection: Http2 = self.tunnel  # type: ignore[assignment]
        return connection

    def expect(self, length: int | None) -> None:
        """Content has to have this length."""
        self._expected = length

    def take(self) -> StreamEvent | None:
        """The next event, if there is one; its bytes are credited to the peer."""
        if not self._events:
            return None
        event = self._events.popleft()
        if isinstance(event, bytes):
            self.credit(len(event))
        return event

    def take_all(self) -> list[StreamEvent]:
        """All events that are there; their bytes are credited to the peer."""
        events = list(self._events)
        self._events.clear()
        size = 0
        for event in events:
            if isinstance(event, bytes):
                size += len(event)
        if size:
            self.credit(size)
        return events

    def put(self, event: StreamEvent) -> None:
        """Something arrived."""
        self._events.append(event)
        self.wake()

    # The sink

    def data(self, view: memoryview) -> None:
        """See ``DataSink``."""
        if self._expected is not None:
            self._expected -= len(view)
            if self._expected < 0:
                self.credit(len(view))
                self.http2.refuse(self, "more content than content-length says")
                return
        self.put(bytes(view))

    def ended(self) -> None:
        """See ``DataSink``."""
        if self._expected:
            self.http2.refuse(self, "less content than content-length says")
        else:
            self.put(End(self.trailers))

    def failed(self, error: HboneStreamError) -> None:
        """See ``DataSink``."""
        self.error = error
        self.wake()

    def writable(self) -> None:
        """See ``DataSink``."""
        self.wake()

    def drop(self) -> None:
        """Give back the credit of everything that nobody will take."""
        if self._events:
            self.take_all()


class Http2Listener(LinkListener, Protocol):
    """Who is told about the connection and its requests."""

    def requested(self, stream: HttpStream) -> None:
        """A request arrived (server)."""

    def ended(self, stream: HttpStream) -> None:
        """The stream is over in both directions."""


class Http2(Streams[HttpStream]):
    """One connection."""

    def __init__(self, listener: Http2Listener, limits: Limits, *, client: bool) -> None:
        super().__init__(listener, limits, client=client)
        self._listener = listener
        self._fields = FieldDecoder(DECODED * LIMITS.head_bytes)
        self._heads: dict[tuple[int, bool, bool], tuple[Fields, Head]] = {}
        """By the id of their list, and what else they depend on."""

    # Sending

    def request(self, request: Request) -> HttpStream:
        """Open a stream (client; only while ``room`` > 0). Raises BadMessageError."""
        fields = request_fields(request)
        if not sendable(fields):
            raise BadMessageError(500, "invalid_header_value")
        stream = HttpStream(self, self._take_id())
        self.streams[stream.id] = stream
        stream._head_request = request.method == "HEAD"
        stream.upgrade = request.upgrade
        self._headers(stream, fields, end=not (request.has_body or request.upgrade))
        return stream

    def respond(self, stream: HttpStream, response: Response) -> None:
        """Send a response's head (server). Raises BadMessageError."""
        fields = response_fields(response)
        if not sendable(fields):
            raise BadMessageError(500, "invalid_header_value")
        if response.status >= 200:
            stream.answered = True
        self._headers(stream, fields, end=response.end)

    def end(self, stream: HttpStream, trailers: tuple[tuple[str, str], ...]) -> None:
        """Our direction is complete. Trailers that cannot be sent are left out."""
        if trailers and sendable(trailers) and not stream.local_ended:
            self._headers(stream, list(trailers), end=True)
        else:
            stream.end()

    def _headers(self, stream: HttpStream, fields: Fields, *, end: bool) -> None:
        if stream.local_ended:
            return  # reset meanwhile
        self._send_headers(stream, encode(fields), end_stream=end)
        if end:
            stream.local_ended = True
            self.settle(stream)

    def send_last(self, stream: HttpStream, data: bytes) -> bool:
        """Send ``data`` with END_STREAM, if there is room for all of it."""
        size = len(data)
        if size > stream.budget():
            return False
        self.out += HEAD.pack(size >> 8, size & 0xFF, Frame.DATA, END_STREAM, stream.id)
        self.out += data
        stream.send_window -= size
        self.send_window -= size
        stream.local_ended = True
        self.settle(stream)
        return True

    # Receiving

    def refuse(self, stream: HttpStream, reason: str) -> None:
        """Reset a stream whose peer broke the rules of HTTP."""
        self.blame(stream, BrokenRulesError(reason, ErrorCode.PROTOCOL_ERROR))

    def closed(self, stream: HttpStream) -> None:
        """See ``Streams``."""
        self._listener.ended(stream)

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """See ``Streams``: a request, a response or trailers."""
        if not self.settled:
            raise ProtocolError("the first frame is not SETTINGS")
        fields = self._fields.decode(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._admit(stream_id):
                self._new_request(stream_id, fields, end=end_stream)
            return
        try:
            if stream.remote_ended:
                raise MalformedError("a header block after the end")
            if self.client and not stream.answered:
                self._response(stream, fields, end=end_stream)
                return
            if not end_stream:
                raise MalformedError("trailers without END_STREAM")
            stream.trailers = read_trailers(fields)
            self.data_ends(stream_id)
        except (MalformedError, TooLargeError) as error:
            self.refuse(stream, str(error))

    def _new_request(self, stream_id: int, fields: Fields, *, end: bool) -> None:
        stream = HttpStream(self, stream_id)
        try:
            head = self._request_head(fields, end=end)
        except MalformedError:
            self.blame_id(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        except TooLargeError:
            self.blame_id(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            return
        stream.head = head
        stream.remote_ended = end
        stream.expect(head.content_length)
        self.streams[stream_id] = stream
        self._listener.requested(stream)

    def _request_head(self, fields: Fields, *, end: bool) -> RequestHead:
        """A list that the decoder recalls is read once."""
        key = (id(fields), end, False)
        known = self._heads.get(key)
        if known is not None and known[0] is fields and isinstance(known[1], RequestHead):
            return known[1]
        head = read_request(fields, end=end)
        self._keep(key, fields, head)
        return head

    def _response_head(self, fields: Fields, *, end: bool, head: bool) -> Response:
        key = (id(fields), end, head)
        known = self._heads.get(key)
        if known is not None and known[0] is fields and isinstance(known[1], Response):
            found = known[1]
        else:
            found = read_response(fields, end=end, head=head)
            self._keep(key, fields, found)
        return Response(found.status, found.headers.copy(), "", found.content_length, found.end)

    def _keep(self, key: tuple[int, bool, bool], fields: Fields, head: Head) -> None:
        if len(self._heads) >= KNOWN_HEADS:
            self._heads.clear()
        self._heads[key] = fields, head

    def _response(self, stream: HttpStream, fields: Fields, *, end: bool) -> None:
        response = self._response_head(fields, end=end, head=stream._head_request)
        if response.status >= 200:
            stream.answered = True
            if not (stream._head_request or stream.upgrade or response.status in (204, 304)):
                stream.expect(response.content_length)
        stream.put(response)
        if end:
            self.data_ends(stream.id)
