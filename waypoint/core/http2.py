"""HTTP/2 with requests and responses on its streams (RFC 9113), as server or client, without I/O.

Frames, windows, limits and floods are those of ``ambient.hbone``; this adds what a stream means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from ambient.hbone.core.errors import ConnectionLostError, HboneStreamError, ProtocolError
from ambient.hbone.core.flow import FlowStream
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.limits import Limits
from ambient.hbone.core.streams import LinkListener, Streams
from waypoint.core.field_block import UnsendableError, encode
from waypoint.core.field_decoder import FieldDecoder
from waypoint.core.http1 import END
from waypoint.core.http2_head import (
    Fields,
    MalformedError,
    TooLargeError,
    read_request,
    read_response,
    read_trailers,
    request_fields,
    response_fields,
)
from waypoint.core.message import End, Headers, Request, RequestHead, Response
from waypoint.core.message_limits import LIMITS, MAX_INTERIM

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
PIECE_BYTES: Final = 4096


class BrokenRulesError(HboneStreamError):
    """The peer sent a message that HTTP forbids; we have reset its stream."""


class HttpStream(FlowStream):
    """One exchange. What arrives waits in a queue that the stream's window bounds.

    Heirs may implement ``wake`` and ``failed``, and look into ``events`` before they ask.
    """

    __slots__ = (
        "_expected", "_head_request", "_interim", "error", "events", "head", "trailers", "upgrade",
    )  # fmt: skip

    tunnel: Http2[Any]  # type: ignore[mutable-override]

    def __init__(self, connection: Http2[Any], stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.sink = self
        self.head: RequestHead | None = None
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.error: HboneStreamError | None = None
        self.events: list[StreamEvent] = []
        """What has arrived and was not taken."""
        self._expected: int | None = None
        self._head_request = False
        self._interim = 0
        self.upgrade = ""
        """The protocol that an extended CONNECT asked for."""

    def wake(self) -> None:
        """There may be something to ``take`` after there was nothing, ``error`` was set, or there
        may be room to send."""

    def take(self) -> StreamEvent | None:
        """The next event, if there is one; its bytes are credited to the peer."""
        if not self.events:
            return None
        event = self.events.pop(0)
        if isinstance(event, bytes):
            self.credit(len(event))
        return event

    def take_all(self) -> list[StreamEvent]:
        """All events that are there; their bytes are credited to the peer."""
        events, self.events = self.events, []
        size = 0
        for event in events:
            if isinstance(event, bytes):
                size += len(event)
        if size:
            self.credit(size)
        return events

    def put(self, event: StreamEvent) -> None:
        """Something arrived. Small pieces of content that wait become one: a window full of them
        would take many times its memory."""
        events = self.events
        if events:
            last = events[-1]
            if isinstance(event, bytes) and isinstance(last, bytes) and len(last) < PIECE_BYTES:
                events[-1] = last + event
            else:
                events.append(event)
            return
        events.append(event)
        self.wake()

    # The sink

    def data(self, view: memoryview) -> None:
        """See ``DataSink``."""
        if self._expected is not None:
            self._expected -= len(view)
            if self._expected < 0:
                self.credit(len(view))
                self.tunnel.refuse(self, "more content than content-length says")
                return
        self.put(bytes(view))

    def ended(self) -> None:
        """See ``DataSink``."""
        if self._expected:
            self.tunnel.refuse(self, "less content than content-length says")
        else:
            self.put(End(self.trailers) if self.trailers else END)

    def failed(self, error: HboneStreamError) -> None:
        """See ``DataSink``."""
        self.error = error
        self.wake()

    def writable(self) -> None:
        """See ``DataSink``."""
        self.wake()

    def drop(self) -> None:
        """Give back the credit of everything that nobody will take."""
        if self.events:
            self.take_all()


S = TypeVar("S", bound=HttpStream)


class Http2Listener(LinkListener, Protocol):
    """Who is told about the connection and its requests."""

    def requested(self, stream: Any) -> None:
        """A request arrived (server)."""

    def ended(self, stream: Any) -> None:
        """The stream is over in both directions."""

    def touch(self) -> None:
        """A stream has made output."""


class _Nobody:
    """The listener of a connection that is over."""

    def settled(self) -> None: ...

    def pong(self, payload: bytes) -> None: ...

    def going_away(self) -> None: ...

    def requested(self, stream: Any) -> None: ...

    def ended(self, stream: Any) -> None: ...

    def touch(self) -> None: ...


_NOBODY: Final = _Nobody()


class Http2(Streams[S], Generic[S]):
    """One connection; ``make`` makes its streams."""

    def __init__(
        self,
        listener: Http2Listener,
        limits: Limits,
        make: Callable[[Http2[S], int], S],
        *,
        client: bool,
    ) -> None:
        super().__init__(listener, limits, client=client)
        self.listener: Http2Listener = listener
        self._make = make
        self._fields = FieldDecoder(DECODED * LIMITS.head_bytes)
        self._heads: dict[tuple[int, bool, bool], tuple[Fields, Head]] = {}
        """By the id of their list, and what else they depend on."""

    # Sending

    def request(self, request: Request) -> S:
        """Open a stream (client; only while ``room`` > 0). Raises BadMessageError."""
        block = encode(request_fields(request))
        stream = self._make(self, self._take_id())
        self.streams[stream.id] = stream
        stream._head_request = request.method == "HEAD"
        stream.upgrade = request.upgrade
        self._headers(stream, block, end=not (request.has_body or request.upgrade))
        return stream

    def respond(self, stream: S, response: Response) -> None:
        """Send a response's head (server). Raises BadMessageError."""
        block = encode(response_fields(response))
        if response.status >= 200:
            stream.answered = True
        self._headers(stream, block, end=response.end)

    def end(self, stream: S, trailers: tuple[tuple[str, str], ...]) -> None:
        """Our direction is complete. Trailers that cannot be sent are left out."""
        if trailers:
            try:
                self._headers(stream, encode(trailers), end=True)
            except UnsendableError:
                pass
            else:
                return
        stream.end()

    def _headers(self, stream: S, block: bytes, *, end: bool) -> None:
        if stream.local_ended:
            return  # reset meanwhile
        self._send_headers(stream, block, end_stream=end)
        if end:
            stream.local_ended = True
            if stream.remote_ended:
                self._close(stream)

    # Receiving

    def refuse(self, stream: S, reason: str) -> None:
        """Reset a stream whose peer broke the rules of HTTP."""
        self.blame(stream, BrokenRulesError(reason, ErrorCode.PROTOCOL_ERROR))

    def lose(self, error: ConnectionLostError) -> None:
        """See ``Streams``. The listener, who knows us, is let go: without cycles a connection goes
        at once, and not when the collector comes by."""
        super().lose(error)
        self.listener = self._link_listener = _NOBODY

    def closed(self, stream: S) -> None:
        """See ``Streams``."""
        self.listener.ended(stream)

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
        try:
            head = self._request_head(fields, end=end)
        except MalformedError:
            self.blame_id(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        except TooLargeError:
            self.blame_id(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            return
        stream = self._make(self, stream_id)
        stream.head = head
        stream.remote_ended = end
        stream._expected = head.content_length
        self.streams[stream_id] = stream
        self.listener.requested(stream)

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
        headers = Headers(found.headers.items)
        return Response(found.status, headers, "", found.content_length, found.end)

    def _keep(self, key: tuple[int, bool, bool], fields: Fields, head: Head) -> None:
        if len(self._heads) >= KNOWN_HEADS:
            self._heads.clear()
        self._heads[key] = fields, head

    def _response(self, stream: S, fields: Fields, *, end: bool) -> None:
        response = self._response_head(fields, end=end, head=stream._head_request)
        if response.status >= 200:
            stream.answered = True
            if stream._head_request or response.status in (204, 304):
                stream._expected = 0
            elif not stream.upgrade:
                stream._expected = response.content_length
        else:
            stream._interim += 1
            if stream._interim > MAX_INTERIM:
                raise MalformedError("too many interim responses")
        stream.put(response)
        if end:
            self.data_ends(stream.id)
