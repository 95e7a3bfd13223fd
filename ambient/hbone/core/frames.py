"""HTTP/2 frames as bytes: types, flags, error codes and how a frame is packed (RFC 9113)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = Struct("!HBBBL")
"""Length (16 high bits, 8 low bits), type, flags, stream id."""
HEAD_BYTES: Final = 9
U32: Final = Struct("!L")
SETTING: Final = Struct("!HL")
ID_MASK: Final = 0x7FFF_FFFF
"""The reserved bit of stream ids and window increments is ignored."""

MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = 2**24 - 1


class Frame(IntEnum):
    """Frame types, RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20


class Setting(IntEnum):
    """Setting identifiers, RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    """Extended CONNECT, RFC 8441."""


class ErrorCode(IntEnum):
    """Error codes, RFC 9113 section 7. A peer may send others; they stay plain ints."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def error_name(code: int) -> str:
    """The code's name in messages; an unknown one keeps its number."""
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else f"error {code:#x}"


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def header_frames(block: bytes, stream_id: int, *, end_stream: bool, max_frame: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as the peer's limit asks for."""
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)] or [b""]
    out = bytearray()
    for number, piece in enumerate(pieces):
        flags = END_HEADERS if number == len(pieces) - 1 else 0
        if number == 0:
            flags |= END_STREAM if end_stream else 0
        out += frame(Frame.CONTINUATION if number else Frame.HEADERS, flags, stream_id, piece)
    return bytes(out)


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(Frame.SETTINGS, 0, 0, b"".join(SETTING.pack(k, v) for k, v in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, 0, stream_id, U32.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(Frame.RST_STREAM, 0, stream_id, U32.pack(code))


def go_away(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return frame(Frame.GOAWAY, 0, 0, U32.pack(last_stream_id) + U32.pack(code) + debug)
