"""Any bytes as kubectl's SPDY, cut anywhere."""

from __future__ import annotations

import struct
import zlib

from ambientctl.local.apiserver.core.spdy import (
    DICTIONARY,
    MAX_STREAMS,
    Data,
    Opened,
    Reset,
    Spdy,
    SpdyError,
)


def headers(deflate, *fields):
    """A block of headers with its share of the connection's compression."""
    plain = struct.pack("!I", len(fields))
    for name, value in fields:
        plain += struct.pack("!I", len(name)) + name + struct.pack("!I", len(value)) + value
    return deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)


def control(kind, payload, flags=0):
    return struct.pack("!HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def opening(deflate, number, kind):
    block = headers(deflate, (b"streamtype", kind), (b"port", b"80"), (b"requestid", b"0"))
    return control(1, struct.pack("!IIBB", number, 0, 0, 0) + block)


def talk():
    """A pair of streams, data both in pieces and at its end, a ping, a reset."""
    deflate = zlib.compressobj(zdict=DICTIONARY)
    return (
        opening(deflate, 1, b"error")
        + opening(deflate, 3, b"data")
        + struct.pack("!II", 3, 5) + b"hello"
        + control(6, struct.pack("!I", 1))
        + control(8, struct.pack("!I", 3) + headers(deflate, (b"a", b"b")))
        + struct.pack("!II", 3, 1 << 24 | 3) + b"end"
        + control(3, struct.pack("!II", 1, 5))
        + control(4, bytes(4)) + control(7, bytes(8)) + control(9, bytes(8))
    )  # fmt: skip


SEEDS = [talk(), talk()[:40], control(6, b"\0\0\0\1"), control(1, bytes(10)), b"\x80\x03"]


def run(data):
    """Events of streams that are open, or a SpdyError; cutting the bytes changes neither."""
    assert outcome([data]) == outcome([data[at : at + 7] for at in range(0, len(data), 7)])


def outcome(pieces):
    spdy, told = Spdy(), []
    try:
        for piece in pieces:
            for event in spdy.receive(piece):
                assert isinstance(event, Opened | Data | Reset)
                told.append(event)
            assert len(spdy.streams) <= MAX_STREAMS
    except SpdyError as error:
        return str(error)  # the connection is over, whatever else the same bytes said
    return told, bytes(spdy.outgoing)
