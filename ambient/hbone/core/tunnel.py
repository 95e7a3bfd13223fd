"""The HTTP/2 connection that carries CONNECT streams, as client or server, without any I/O.

Bytes go in through ``receive``; what must be sent is in ``out``; news goes to a ``TunnelListener``
and to each stream's ``Sink`` as plain calls, in wire order. (An event object per frame would halve
the rate of the relay.) Flow control, limits and stream states are enforced here.
"""

from __future__ import annotations

from typing import Final, Protocol

from ambient.hbone.core.connect import (
    ConnectRequest,
    ConnectResponse,
    MalformedHeadError,
    check_trailers,
    parse_request,
    parse_response,
    request_fields,
    response_fields,
)
from ambient.hbone.core.errors import (
    ConnectionLostError,
    FloodError,
    FlowControlError,
    FrameSizeError,
    HboneStreamError,
    PeerError,
    ProtocolError,
)
from ambient.hbone.core.frames import (
    ID_MASK,
    MAX_WINDOW,
    U32,
    ErrorCode,
    Frame,
    error_name,
    header_frames,
    rst_stream,
)
from ambient.hbone.core.limits import FloodGate, Limits
from ambient.hbone.core.link import Link
from ambient.hbone.core.reader import FrameReader
from ambient.hbone.core.stream import Discard, Stream

NOT_CONNECT: Final = ConnectResponse(400)
"""The answer to a request that is no plain CONNECT (ztunnel)."""


class TunnelListener(Protocol):
    """Who is told about the connection and its streams."""

    def settled(self) -> None:
        """The peer's first SETTINGS arrived."""

    def requested(self, stream: Stream) -> None:
        """A CONNECT arrived (server). Set ``stream.sink`` now; answer with ``respond``."""

    def closed(self, stream: Stream) -> None:
        """The stream ended in both directions, in whatever way."""

    def pong(self, payload: bytes) -> None:
        """The answer to our PING."""

    def going_away(self) -> None:
        """The peer takes no more streams; the accepted ones go on."""


class Tunnel(Link):
    """One connection. Raises PeerError from ``receive``; the GOAWAY is then in ``out``."""

    def __init__(self, listener: TunnelListener, limits: Limits, *, client: bool) -> None:
        super().__init__(limits, client=client)
        self._listener = listener
        self.streams: dict[int, Stream] = {}
        self._blocked: dict[Stream, None] = {}
        self._reader = FrameReader(self, max_frame=limits.max_frame, expect_preface=not client)
        self._next_id = 1
        self._highest_peer_id = 0
        self.refusing = False
        """We sent the final GOAWAY (server) or the peer did (client): no new streams."""
        self._failed = False
        # A stream that is reset before its answer cost us a dial ("rapid reset"); empty DATA costs
        # the peer nothing. Both limits are our own choice.
        self._reset_gate = FloodGate(burst=400, per_second=100)
        self._empty_gate = FloodGate(burst=100, per_second=10)

    def receive(self, data: memoryview, now_s: float) -> None:
        """Take bytes from the network. Raises PeerError; the connection must then end."""
        self.now_s = now_s
        if self._failed:
            return
        try:
            self._reader.feed(data)
        except PeerError as violation:
            self._failed = True
            self.queue_go_away(self._highest_peer_id, violation.code, str(violation))
            raise

    # Streams, our side

    @property
    def room(self) -> int:
        """How many more streams we may open now (client)."""
        if self.refusing or self._failed or self._next_id > ID_MASK:
            return 0
        return self.peer_max_streams - len(self.streams)

    def open(self, request: ConnectRequest) -> Stream:
        """Send a CONNECT (client; only while ``room`` > 0). The caller sets the stream's sink."""
        assert self.client
        assert self.room > 0
        stream = Stream(self, self._next_id, request)
        self._next_id += 2
        self.streams[stream.id] = stream
        self._send_headers(stream, self.encode(request_fields(request)), end_stream=False)
        return stream

    def respond(self, stream: Stream, response: ConnectResponse) -> None:
        """Answer a CONNECT (server, once). Anything but 200 ends the stream."""
        if stream.local_ended:
            return  # reset meanwhile
        assert not stream.answered
        stream.answered = True
        refused = response.status != 200
        self._send_headers(stream, self.encode(response_fields(response)), end_stream=refused)
        if refused:
            stream.local_ended = True
            self.reset(stream, ErrorCode.NO_ERROR)

    def _send_headers(self, stream: Stream, block: bytes, *, end_stream: bool) -> None:
        self.out += header_frames(
            block, stream.id, end_stream=end_stream, max_frame=self.peer_max_frame
        )

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream early; what still arrives for it is dropped."""
        if self.streams.get(stream.id) is not stream:
            return
        if not stream.closed:
            self.out += rst_stream(stream.id, code)
        self._close(stream)

    def settle(self, stream: Stream) -> None:
        """Forget the stream when both directions have ended."""
        if stream.local_ended and stream.remote_ended:
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.local_ended = stream.remote_ended = True
        stream.sink = Discard(stream)
        self._blocked.pop(stream, None)
        if self.streams.pop(stream.id, None) is not None:
            self._listener.closed(stream)

    def _fail(self, stream: Stream, error: HboneStreamError) -> None:
        sink = stream.sink
        self._close(stream)
        sink.failed(error)

    def lose(self, error: ConnectionLostError) -> None:
        """The connection is gone: every stream fails with ``error``."""
        self._failed = True
        for stream in list(self.streams.values()):
            self._fail(stream, error)

    def block(self, stream: Stream) -> None:
        """Tell the stream's sink (``writable``) when its budget may have grown."""
        self._blocked[stream] = None

    def unblock(self) -> None:
        """Something that all blocked streams share has grown: each may try again, oldest first."""
        if self._blocked:
            waiting, self._blocked = self._blocked, {}
            for stream in waiting:
                stream.sink.writable()

    # Leaving

    def announce_leave(self) -> None:
        """First step of a graceful end (server): ask for no more streams, take those under way."""
        self.queue_go_away(MAX_WINDOW, ErrorCode.NO_ERROR)

    def leave(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Name the last stream that we take; later ones are ignored, so the peer repeats them."""
        self.refusing = True
        self.queue_go_away(self._highest_peer_id, code, reason)

    # Frames, called by the reader

    def data_begins(self, stream_id: int, length: int, padding: int) -> Stream | None:
        """Count a DATA frame against both windows; None drops its payload."""
        self.receive_window -= length
        if self.receive_window < 0:
            raise FlowControlError("more DATA than the connection window allows")
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_ended:
            self._reject_data(stream_id, stream)
            self.credit(length)
            return None
        if self.client and not stream.answered:
            raise ProtocolError("DATA before the answer to CONNECT")
        stream.receive_window -= length
        if stream.receive_window < 0:
            raise FlowControlError("more DATA than the stream window allows")
        if padding:
            stream.credit(padding)
        return stream

    def _reject_data(self, stream_id: int, stream: Stream | None) -> None:
        if stream_id == 0 or self._is_idle(stream_id):
            raise ProtocolError(f"DATA on stream {stream_id}, which was never opened")
        if stream is not None:
            self.out += rst_stream(stream_id, ErrorCode.STREAM_CLOSED)
            self._fail(stream, HboneStreamError("DATA after the end", ErrorCode.PROTOCOL_ERROR))

    def data_is_empty(self) -> None:
        """Costs the peer nothing and us a little: bounded."""
        if not self._empty_gate.admits(self.now_s):
            raise FloodError("too many empty DATA frames")

    def data_ends(self, stream_id: int) -> None:
        """END_STREAM arrived."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.remote_ended:
            stream.remote_ended = True
            stream.sink.ended()
            self.settle(stream)

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """A header block: a request, an answer or trailers."""
        if not self.settled:
            raise ProtocolError("the first frame is not SETTINGS")
        fields = self.decode(block)
        stream = self.streams.get(stream_id)
        try:
            if stream is None:
                self._new_request(stream_id, fields, end_stream=end_stream)
            elif self.client and not stream.answered:
                self._response(stream, fields, end_stream=end_stream)
            else:
                check_trailers(fields)
                if not end_stream:
                    raise MalformedHeadError("trailers without END_STREAM")
                self.data_ends(stream_id)
        except MalformedHeadError as error:
            self.out += rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR)
            if stream is not None:
                code = ErrorCode.PROTOCOL_ERROR
                self._fail(stream, HboneStreamError(f"malformed headers: {error}", code))

    def _new_request(
        self, stream_id: int, fields: list[tuple[bytes, bytes]], *, end_stream: bool
    ) -> None:
        if self.client or stream_id % 2 == 0:
            if self.client and stream_id and not self._is_idle(stream_id):
                return  # the answer to a stream that we have reset
            raise ProtocolError(f"HEADERS on stream {stream_id}")
        if stream_id <= self._highest_peer_id:
            return  # a stream that we have reset; its block is decoded, that is all
        if self.refusing:
            return  # above the last stream of our GOAWAY: the peer knows it was not taken
        self._highest_peer_id = stream_id
        if len(self.streams) >= self.limits.max_streams:
            self.out += rst_stream(stream_id, ErrorCode.REFUSED_STREAM)
            if not self._reset_gate.admits(self.now_s):
                raise FloodError("too many streams over the advertised limit")
            return
        request = parse_request(fields)
        stream = Stream(self, stream_id, request or ConnectRequest(""))
        stream.remote_ended = end_stream
        self.streams[stream_id] = stream
        if request is None:
            self.respond(stream, NOT_CONNECT)
        else:
            self._listener.requested(stream)

    def _response(
        self, stream: Stream, fields: list[tuple[bytes, bytes]], *, end_stream: bool
    ) -> None:
        response = parse_response(fields)
        if response.status < 200:
            if end_stream:
                raise MalformedHeadError("an interim answer that ends the stream")
            return
        stream.answered = True
        stream.sink.responded(response)
        if end_stream:
            self.data_ends(stream.id)

    def control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Frames that are neither DATA nor headers."""
        if not self.settled and kind != Frame.SETTINGS:
            raise ProtocolError("the first frame is not SETTINGS")
        match kind:
            case Frame.WINDOW_UPDATE:
                self._on_window_update(stream_id, payload)
            case Frame.RST_STREAM:
                self._on_rst(stream_id, payload)
            case Frame.SETTINGS:
                self._on_settings(flags, stream_id, payload)
            case Frame.PING:
                answer = self.on_ping(flags, stream_id, payload)
                if answer is not None:
                    self._listener.pong(answer)
            case Frame.GOAWAY:
                self._on_go_away(stream_id, payload)
            case Frame.PUSH_PROMISE:
                raise ProtocolError("PUSH_PROMISE, though push is off")
            case _:
                if not stream_id or len(payload) != 5:
                    raise FrameSizeError("bad PRIORITY frame")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        first = not self.settled
        grown = self.on_settings(flags, stream_id, payload)
        if grown:
            for stream in self.streams.values():
                stream.send_window += grown
                if stream.send_window > MAX_WINDOW:
                    raise FlowControlError("a stream window above 2^31-1")
        if first and self.settled:
            self._listener.settled()
        if grown > 0:
            self.unblock()

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FrameSizeError("WINDOW_UPDATE without 4 bytes")
        increment = U32.unpack(payload)[0] & ID_MASK
        if stream_id == 0:
            if not increment:
                raise ProtocolError("WINDOW_UPDATE by 0")
            self.send_window += increment
            if self.send_window > MAX_WINDOW:
                raise FlowControlError("a connection window above 2^31-1")
            self.unblock()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ProtocolError("WINDOW_UPDATE on a stream that was never opened")
            return
        stream.send_window += increment
        if not increment or stream.send_window > MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            self.out += rst_stream(stream_id, code)
            self._fail(stream, HboneStreamError("the peer sent a bad WINDOW_UPDATE", code))
        elif stream in self._blocked:
            del self._blocked[stream]
            stream.sink.writable()

    def _on_rst(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FrameSizeError("RST_STREAM without 4 bytes")
        if stream_id == 0 or self._is_idle(stream_id):
            raise ProtocolError("RST_STREAM on a stream that was never opened")
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if not self.client and not stream.answered and not self._reset_gate.admits(self.now_s):
            raise FloodError("too many streams reset before their answer")
        self._fail(stream, HboneStreamError.reset_by_peer(U32.unpack(payload)[0]))

    def _on_go_away(self, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 8:
            raise ProtocolError("bad GOAWAY frame")
        if not self.client:
            return  # we open no streams; its own ones go on
        last, code = U32.unpack_from(payload)[0] & ID_MASK, U32.unpack_from(payload, 4)[0]
        self.refusing = True
        for stream in [s for s in self.streams.values() if s.id > last]:
            message = f"the peer is leaving ({error_name(code)}) and did not take the stream"
            self._fail(stream, HboneStreamError(message, code, retryable=True))
        self._listener.going_away()

    def _is_idle(self, stream_id: int) -> bool:
        if self.client:
            return stream_id % 2 == 0 or stream_id >= self._next_id
        return stream_id % 2 == 0 or stream_id > self._highest_peer_id
