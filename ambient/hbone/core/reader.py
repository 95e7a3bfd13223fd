"""Bytes to frames: the only place that knows where one frame ends and the next begins.

DATA is never collected: its payload is passed on as slices of what just arrived, so a frame of
1 MiB costs no memory and no waiting. Every other frame is short and handed over whole; a header
block arrives in one piece, whatever CONTINUATION frames it came in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ambient.hbone.core.errors import (
    FloodError,
    FrameSizeError,
    ProtocolError,
)
from ambient.hbone.core.frames import (
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEAD_BYTES,
    ID_MASK,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    Frame,
)
from ambient.hbone.core.limits import MAX_CONTINUATIONS, MAX_CONTROL_FRAME

if TYPE_CHECKING:
    from ambient.hbone.core.flow import FlowStream

_unpack_head = HEAD.unpack_from
_DATA, _HEADERS = int(Frame.DATA), int(Frame.HEADERS)
_HEADERS_FORM = PADDED | PRIORITY_FLAG | END_HEADERS


class FrameHandler(Protocol):
    """Who is told. Calls come in wire order; whatever they raise ends the connection."""

    def data_begins(self, stream_id: int, length: int, padding: int) -> FlowStream | None:
        """A DATA frame of ``length`` bytes (padding and its length byte included) has begun.

        The answer's ``sink`` gets the payload; None drops it.
        """

    def data_is_empty(self) -> None:
        """A DATA frame without payload that does not even end its stream."""

    def data_ends(self, stream_id: int) -> None:
        """A DATA frame with END_STREAM is complete."""

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """A whole header block."""

    def control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Any other frame of a known type, whole."""


class _Nobody:
    """Takes what comes for a connection that is over."""

    def data_begins(self, stream_id: int, length: int, padding: int) -> None: ...

    def data_is_empty(self) -> None: ...

    def data_ends(self, stream_id: int) -> None: ...

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None: ...

    def control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None: ...


_NOBODY: Final = _Nobody()


class FrameReader:
    """Push bytes in with ``feed``; raises PeerError and is unusable afterwards."""

    def __init__(self, handler: FrameHandler, *, max_frame: int, expect_preface: bool) -> None:
        self._handler: FrameHandler = handler
        self._max_frame = max_frame
        self._plain = min(max_frame, MAX_CONTROL_FRAME)
        """Frames up to this size need no closer look at their length."""
        self._preface_left = len(PREFACE) if expect_preface else 0
        self._stash = bytearray()
        """The beginning of a frame that is not there yet; at most MAX_CONTROL_FRAME + 9 bytes."""
        self._left = 0
        """Payload bytes still to come of the DATA frame (or unknown frame) under way."""
        self._padding = 0
        self._stream: FlowStream | None = None
        self._ends_stream = 0
        self._block: bytearray | None = None
        self._block_stream = 0
        self._block_ends_stream = False
        self._continuations = 0

    def forget(self) -> None:
        """Tell nobody any more: handler and reader know each other, and the collector would have
        to find that out."""
        self._handler, self._stream = _NOBODY, None

    def feed(self, data: memoryview) -> None:
        """Take what arrived, in any cut. ``data`` may be reused by the caller afterwards."""
        position, size = 0, len(data)
        if self._preface_left:
            position = self._take_preface(data)
        if self._stash:
            position = self._finish_stash(data, position)
        while position < size:
            left = self._left
            if left or self._padding:
                position = self._take_payload(data, position, size)
                continue
            if size - position < HEAD_BYTES:
                self._stash += data[position:]
                return
            high, low, kind, flags, stream_id = _unpack_head(data, position)
            length = high << 8 | low
            end = position + HEAD_BYTES + length
            if end <= size and self._block is None and 0 < length <= self._plain:
                # by far the most frequent: a plain frame that is there as a whole
                if kind == _DATA and not flags & PADDED:
                    stream = self._handler.data_begins(stream_id & ID_MASK, length, 0)
                    if stream is not None:
                        stream.sink.data(data[position + HEAD_BYTES : end])
                    if flags & END_STREAM:
                        self._handler.data_ends(stream_id & ID_MASK)
                    position = end
                    continue
                if kind == _HEADERS and flags & _HEADERS_FORM == END_HEADERS:
                    block = bytes(data[position + HEAD_BYTES : end])
                    ends = flags & END_STREAM != 0
                    self._handler.headers(stream_id & ID_MASK, block, end_stream=ends)
                    position = end
                    continue
            needed = HEAD_BYTES + self._held_whole(kind, flags, length)
            if size - position < needed:
                self._stash += data[position:]
                return
            self._whole(data[position : position + needed])
            position += needed

    def _take_preface(self, data: memoryview) -> int:
        begin = len(PREFACE) - self._preface_left
        got = bytes(data[: self._preface_left])
        if got != PREFACE[begin : begin + len(got)]:
            raise ProtocolError("the peer does not speak HTTP/2: bad connection preface")
        self._preface_left -= len(got)
        return len(got)

    def _finish_stash(self, data: memoryview, position: int) -> int:
        """Complete the frame begun earlier from the front of ``data``."""
        stash = self._stash
        needed = HEAD_BYTES
        for _ in range(2):  # first the head, then what the head says
            if len(stash) >= HEAD_BYTES:
                high, low, kind, flags, _stream = _unpack_head(stash)
                needed = HEAD_BYTES + self._held_whole(kind, flags, high << 8 | low)
            taken = data[position : position + max(0, needed - len(stash))]
            stash += taken
            position += len(taken)
        if len(stash) >= HEAD_BYTES and len(stash) == needed:
            self._stash = bytearray()
            self._whole(memoryview(stash))
        return position

    def _held_whole(self, kind: int, flags: int, length: int) -> int:
        """How many payload bytes must be there before the frame can be looked at."""
        if length > self._max_frame:
            raise FrameSizeError(f"a frame of {length} bytes, the limit is {self._max_frame}")
        if kind == _DATA:
            return 1 if flags & PADDED and length else 0
        if kind > Frame.CONTINUATION:
            return 0
        if length > MAX_CONTROL_FRAME:
            raise FloodError(f"a frame of type {kind} and {length} bytes")
        return length

    def _whole(self, view: memoryview) -> None:
        """One frame, head first, with everything that ``_held_whole`` asked for."""
        high, low, kind, flags, stream_id = _unpack_head(view)
        length = high << 8 | low
        stream_id &= ID_MASK
        if kind == _DATA:
            padding = 0
            if flags & PADDED:
                padding = view[HEAD_BYTES] + 1 if length else 1
                if padding > length:
                    raise ProtocolError("padding longer than its frame")
            self._begin_data(stream_id, length, padding, flags)
            return
        if self._block is not None and (
            kind != Frame.CONTINUATION or stream_id != self._block_stream
        ):
            raise ProtocolError("a header block was interrupted")
        if kind > Frame.CONTINUATION:
            self._left, self._stream, self._ends_stream = length, None, 0
            return
        payload = bytes(view[HEAD_BYTES:])
        if kind == Frame.HEADERS:
            self._headers(stream_id, flags, payload)
        elif kind == Frame.CONTINUATION:
            self._continuation(flags, payload)
        else:
            self._handler.control(kind, flags, stream_id, payload)

    def _begin_data(self, stream_id: int, length: int, padding: int, flags: int) -> None:
        if length > self._max_frame:  # first, as in ``_held_whole``: however the bytes are cut
            raise FrameSizeError(f"a frame of {length} bytes, the limit is {self._max_frame}")
        if self._block is not None:
            raise ProtocolError("a header block was interrupted")
        self._stream = self._handler.data_begins(stream_id, length, padding)
        self._left = length - padding
        self._padding = max(0, padding - 1)  # the length byte itself is already behind us
        self._ends_stream = stream_id if flags & END_STREAM else 0
        if not self._left and not self._ends_stream:
            self._handler.data_is_empty()  # padding is nothing
        elif not self._left and not self._padding:
            self._handler.data_ends(stream_id)

    def _take_payload(self, data: memoryview, position: int, size: int) -> int:
        left = self._left
        if left:
            taken = min(left, size - position)
            end = position + taken
            self._left = left = left - taken
            stream = self._stream
            if stream is not None:
                stream.sink.data(data[position:end])
            position = end
        if not left:
            taken = min(self._padding, size - position)
            self._padding -= taken
            position += taken
            if not self._padding and self._ends_stream:
                self._handler.data_ends(self._ends_stream)
        return position

    def _headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        begin = 0
        end = len(payload)
        if flags & PADDED:
            if not payload:
                raise FrameSizeError("HEADERS without its padding length")
            begin, end = 1, end - payload[0]
        if flags & PRIORITY_FLAG:
            begin += 5  # stream dependency and weight: ignored (RFC 9113 section 5.3.2)
        if begin > end:
            raise ProtocolError("HEADERS too short for its padding or priority")
        self._block = bytearray(payload[begin:end])
        self._block_stream = stream_id
        self._block_ends_stream = bool(flags & END_STREAM)
        self._continuations = 0
        if flags & END_HEADERS:
            self._end_block()

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError("CONTINUATION without HEADERS")
        self._continuations += 1
        self._block += payload
        if self._continuations > MAX_CONTINUATIONS or len(self._block) > MAX_CONTROL_FRAME:
            raise FloodError("a header block without an end")
        if flags & END_HEADERS:
            self._end_block()

    def _end_block(self) -> None:
        assert self._block is not None
        block, self._block = bytes(self._block), None
        self._handler.headers(self._block_stream, block, end_stream=self._block_ends_stream)
