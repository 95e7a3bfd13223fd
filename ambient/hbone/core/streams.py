"""An HTTP/2 connection with streams, as client or server, without any I/O; what the streams carry
is the business of whoever builds on this (``Tunnel``: CONNECT; the waypoint: HTTP).

Bytes go in through ``receive``; what must be sent is in ``out``; what arrives on a stream goes to
its ``sink`` as plain calls, in wire order. (An event object per frame would halve the rate of the
relay.) Flow control, limits and stream states are enforced here.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from ambient.hbone.core.errors import (
    ConnectionLostError,
    FloodError,
    FlowControlError,
    FrameSizeError,
    HboneStreamError,
    PeerError,
    ProtocolError,
)
from ambient.hbone.core.flow import NOWHERE, DataSink, Discard, FlowStream
from ambient.hbone.core.frames import (
    END_HEADERS,
    END_STREAM,
    HEAD,
    ID_MASK,
    MAX_WINDOW,
    U32,
    ErrorCode,
    Frame,
    error_name,
    header_frames,
    rst_stream,
)
from ambient.hbone.core.limits import SKIPS_REMEMBERED, UPDATES_PER_STREAM, FloodGate, Limits
from ambient.hbone.core.link import Link
from ambient.hbone.core.reader import FrameReader

S = TypeVar("S", bound=FlowStream)
_HEADERS = int(Frame.HEADERS)
_WHOLE_END = END_HEADERS | END_STREAM


class LinkListener(Protocol):
    """Who is told about the connection."""

    def settled(self) -> None:
        """The peer's first SETTINGS arrived."""

    def pong(self, payload: bytes) -> None:
        """The answer to our PING."""

    def going_away(self) -> None:
        """The peer takes no more streams; the accepted ones go on."""


class Streams(Link, Generic[S]):
    """One connection. Raises PeerError from ``receive``; the GOAWAY is then in ``out``.

    Heirs implement ``headers`` and ``closed``.
    """

    def __init__(self, listener: LinkListener, limits: Limits, *, client: bool) -> None:
        super().__init__(limits, client=client)
        self._link_listener: LinkListener = listener
        self.streams: dict[int, S] = {}
        self.discard: DataSink = Discard(self)
        """Takes what comes for streams that are over."""
        self._blocked: dict[S, None] = {}
        self._reader = FrameReader(self, max_frame=limits.max_frame, expect_preface=not client)
        self._next_id = 1
        self._highest_peer_id = 0
        self._skipped: deque[range] = deque(maxlen=SKIPS_REMEMBERED)
        """Ids below it that the peer never used."""
        self.refusing = False
        """We sent the final GOAWAY (server) or the peer did (client): no new streams."""
        self._failed = False
        # A stream that is reset before its answer cost us a dial ("rapid reset"); empty DATA costs
        # the peer nothing, and PRIORITY means nothing. The limits are our own choice.
        self._reset_gate = FloodGate(burst=400, per_second=100)
        self._priority_gate = FloodGate(burst=1000, per_second=100)
        self._empty_gate = FloodGate(burst=100, per_second=10)

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """A whole header block arrived. It has to be decoded, wanted or not."""
        raise NotImplementedError

    def closed(self, stream: S) -> None:
        """The stream ended in both directions, in whatever way."""
        raise NotImplementedError

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

    def _take_id(self) -> int:
        """The id of the next stream that we open (client; only while ``room`` > 0)."""
        self._next_id += 2
        self.updates_left += UPDATES_PER_STREAM
        return self._next_id - 2

    def _send_headers(self, stream: S, block: bytes, *, end_stream: bool) -> None:
        size = len(block)
        if size <= self.peer_max_frame:
            flags = _WHOLE_END if end_stream else END_HEADERS
            self.out += HEAD.pack(size >> 8, size & 0xFF, _HEADERS, flags, stream.id)
            self.out += block
            return
        self.out += header_frames(
            block, stream.id, end_stream=end_stream, max_frame=self.peer_max_frame
        )

    def reset(self, stream: S, code: int) -> None:
        """End a stream early; what still arrives for it is dropped."""
        if self.streams.get(stream.id) is not stream:
            return
        if not stream.closed:
            self.out += rst_stream(stream.id, code)
        self._close(stream)

    def settle(self, stream: S) -> None:
        """Forget the stream when both directions have ended."""
        if stream.local_ended and stream.remote_ended:
            self._close(stream)

    def _close(self, stream: S) -> None:
        stream.local_ended = stream.remote_ended = True
        stream.sink = self.discard
        self._blocked.pop(stream, None)
        if self.streams.pop(stream.id, None) is not None:
            self.closed(stream)

    def _fail(self, stream: S, error: HboneStreamError) -> None:
        sink = stream.sink
        self._close(stream)
        sink.failed(error)

    def lose(self, error: ConnectionLostError) -> None:
        """The connection is gone: every stream fails with ``error``."""
        self._failed = True
        for stream in list(self.streams.values()):
            self._fail(stream, error)
        self._reader.forget()
        self.discard = NOWHERE

    def block(self, stream: S) -> None:
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

    def data_begins(self, stream_id: int, length: int, padding: int) -> S | None:
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

    def _reject_data(self, stream_id: int, stream: S | None) -> None:
        if stream_id == 0 or self._is_idle(stream_id):
            raise ProtocolError(f"DATA on stream {stream_id}, which was never opened")
        if stream is not None:
            self._fail(stream, HboneStreamError("DATA after the end", ErrorCode.PROTOCOL_ERROR))
            self.blame_id(stream_id, ErrorCode.STREAM_CLOSED)

    def blame(self, stream: S, error: HboneStreamError) -> None:
        """Reset a stream whose peer broke a rule. Raises FloodError."""
        self._fail(stream, error)
        self.blame_id(stream.id, error.code)

    def blame_id(self, stream_id: int, code: int) -> None:
        """The same, where there is no stream yet. Who has us reset streams has reset them
        ("made you reset"): raises FloodError where they are too many."""
        self.check_output()
        self.out += rst_stream(stream_id, code)
        if not self.client and not self._reset_gate.admits(self.now_s):
            raise FloodError("too many streams reset before their answer")

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
            if stream.local_ended:
                self._close(stream)

    def _admit(self, stream_id: int) -> bool:
        """Is the header block with this id a new request that is to be served (server)?

        Raises ProtocolError and FloodError.
        """
        if self.client or stream_id % 2 == 0:
            if self.client and stream_id and not self._is_idle(stream_id):
                return False  # the answer to a stream that we have reset
            raise ProtocolError(f"HEADERS on stream {stream_id}")
        if stream_id <= self._highest_peer_id:
            if any(stream_id in some for some in self._skipped):  # RFC 9113 section 5.1.1
                raise ProtocolError(f"HEADERS on stream {stream_id}, behind a later stream")
            return False  # a stream that we have reset; its block is decoded, that is all
        if self.refusing:
            return False  # above the last stream of our GOAWAY: the peer knows it was not taken
        expected = self._highest_peer_id + 2 if self._highest_peer_id else 1
        if stream_id > expected:
            self._skipped.append(range(expected, stream_id, 2))
        self._highest_peer_id = stream_id
        self.updates_left += UPDATES_PER_STREAM
        if len(self.streams) >= self.limits.max_streams:
            self.blame_id(stream_id, ErrorCode.REFUSED_STREAM)
            return False
        return True

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
                    self._link_listener.pong(answer)
            case Frame.GOAWAY:
                self._on_go_away(stream_id, payload)
            case Frame.PUSH_PROMISE:
                raise ProtocolError("PUSH_PROMISE, though push is off")
            case _:
                if not stream_id:
                    raise ProtocolError("PRIORITY on no stream")
                if len(payload) != 5:
                    raise FrameSizeError("bad PRIORITY frame")
                if not self._priority_gate.admits(self.now_s):
                    raise FloodError("too many PRIORITY frames")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        first = not self.settled
        grown = self.on_settings(flags, stream_id, payload)
        if grown:
            for stream in self.streams.values():
                stream.send_window += grown
                if stream.send_window > MAX_WINDOW:
                    raise FlowControlError("a stream window above 2^31-1")
        if first and self.settled:
            self._link_listener.settled()
        if grown > 0:
            self.unblock()

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FrameSizeError("WINDOW_UPDATE without 4 bytes")
        self.updates_left -= 1
        if self.updates_left < 0:
            raise FloodError("too many WINDOW_UPDATE frames")
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
            self.blame(stream, HboneStreamError("the peer sent a bad WINDOW_UPDATE", code))
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
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        if len(payload) < 8:
            raise FrameSizeError("GOAWAY without 8 bytes")
        if not self.client:
            return  # we open no streams; its own ones go on
        last, code = U32.unpack_from(payload)[0] & ID_MASK, U32.unpack_from(payload, 4)[0]
        self.refusing = True
        for stream in [s for s in self.streams.values() if s.id > last]:
            message = f"the peer is leaving ({error_name(code)}) and did not take the stream"
            self._fail(stream, HboneStreamError(message, code, retryable=True))
        self._link_listener.going_away()

    def _is_idle(self, stream_id: int) -> bool:
        if self.client:
            return stream_id % 2 == 0 or stream_id >= self._next_id
        return stream_id % 2 == 0 or stream_id > self._highest_peer_id
