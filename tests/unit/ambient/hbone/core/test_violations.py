"""What a peer must not do, and the code with which the connection then ends."""

from __future__ import annotations

import pytest

from ambient.hbone.core.frames import (
    LARGEST_MAX_FRAME,
    PREFACE,
    ErrorCode,
    Frame,
    Setting,
    frame,
    settings,
    window_update,
)
from ambient.hbone.core.limits import MAX_CONTINUATIONS
from tests.unit.ambient.hbone.core.wire import (
    CONNECT_BLOCK,
    Side,
    connect_frame,
    handshaken_client,
    handshaken_server,
)

PROTOCOL, SIZE, FLOW, CALM, COMPRESSION = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
    ErrorCode.COMPRESSION_ERROR,
)
OPEN_BLOCK = frame(Frame.HEADERS, 0, 1, CONNECT_BLOCK)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(Frame.DATA, 0, 0, b"x"), PROTOCOL),
        (frame(Frame.DATA, 0, 5, b"x"), PROTOCOL),  # idle stream
        (connect_frame(1) + frame(Frame.DATA, 0x8, 1, b"\x05abc"), PROTOCOL),  # padding
        (frame(Frame.HEADERS, 0x4, 2, CONNECT_BLOCK), PROTOCOL),  # even id
        (frame(Frame.HEADERS, 0x4, 0, CONNECT_BLOCK), PROTOCOL),
        (connect_frame(5) + connect_frame(3), PROTOCOL),  # below a later one, and never opened
        (frame(Frame.HEADERS, 0xC, 1, b"\x09abc"), PROTOCOL),  # padding
        (frame(Frame.HEADERS, 0xC, 1, b""), SIZE),
        (frame(Frame.HEADERS, 0x4, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION),
        (frame(Frame.CONTINUATION, 0x4, 1, b""), PROTOCOL),
        (OPEN_BLOCK + connect_frame(3), PROTOCOL),
        (OPEN_BLOCK + frame(Frame.DATA, 0, 1, b"x"), PROTOCOL),
        (OPEN_BLOCK + frame(77, 0, 0, b"x"), PROTOCOL),
        (frame(Frame.SETTINGS, 0, 1), PROTOCOL),
        (frame(Frame.SETTINGS, 0, 0, b"abc"), SIZE),
        (frame(Frame.SETTINGS, 1, 0, b"abcdef"), SIZE),
        (settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), FLOW),
        (settings({Setting.MAX_FRAME_SIZE: 100}), PROTOCOL),
        (settings({Setting.MAX_FRAME_SIZE: LARGEST_MAX_FRAME + 1}), PROTOCOL),
        (settings({Setting.ENABLE_PUSH: 2}), PROTOCOL),
        (frame(Frame.PING, 0, 0, b"short"), SIZE),
        (frame(Frame.PING, 0, 1, b"12345678"), PROTOCOL),
        (frame(Frame.GOAWAY, 0, 0, b"short"), SIZE),
        (frame(Frame.GOAWAY, 0, 1, b"12345678"), PROTOCOL),
        (window_update(0, 0), PROTOCOL),
        (window_update(7, 1), PROTOCOL),
        (frame(Frame.WINDOW_UPDATE, 0, 0, b"abc"), SIZE),
        (window_update(0, 2**31 - 1), FLOW),
        (frame(Frame.RST_STREAM, 0, 9, b"\0\0\0\0"), PROTOCOL),
        (frame(Frame.RST_STREAM, 0, 1, b"\0"), SIZE),
        (frame(Frame.PUSH_PROMISE, 0x4, 1, b"\0\0\0\2"), PROTOCOL),
        (frame(Frame.PRIORITY, 0, 1, b"abc"), SIZE),
        (b"\x10\x00\x01" + b"\0\0\0\0\0\1", SIZE),  # DATA of 1 MiB and one byte
        (b"\x03\x00\x00" + b"\1\4\0\0\0\1", CALM),  # HEADERS of 192 KiB
    ],
)
def test_a_violation_ends_the_connection_with_its_code(wire, code):
    server = handshaken_server()
    error = server.feed(wire)
    assert error is not None
    assert error.code == code
    kind, _, _, payload = server.frames()[-1]
    assert kind == Frame.GOAWAY
    assert int.from_bytes(payload[4:8], "big") == code
    server.log.clear()
    assert server.feed(connect_frame(11)) is None  # nothing is listened to any more
    assert server.log == []


def test_a_peer_that_speaks_something_else_is_told_apart_at_once():
    server = Side(client=False)
    assert server.feed(b"GET / HTTP/1.1\r\n").code == PROTOCOL
    server = Side(client=False)
    assert server.feed(PREFACE + connect_frame(1)).code == PROTOCOL
    server = Side(client=False)
    assert (
        server.feed(PREFACE[:10], PREFACE[10:] + frame(Frame.PING, 0, 0, bytes(8))).code == PROTOCOL
    )


def test_a_server_may_neither_answer_unasked_nor_send_data_before_its_answer():
    assert handshaken_client().feed(frame(Frame.HEADERS, 0x4, 1, b"\x88")).code == PROTOCOL
    assert handshaken_client().feed(frame(Frame.HEADERS, 0x4, 2, b"\x88")).code == PROTOCOL
    client = handshaken_client()
    client.open()
    assert client.feed(frame(Frame.DATA, 0, 1, b"early")).code == PROTOCOL


def test_a_header_list_over_the_limit_ends_the_connection():
    server = handshaken_server()
    long = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000  # 4000 bytes, put into the table (index 62)
    repeated = long + b"\xbe" * 20  # 80 kB from 4 kB
    assert server.feed(frame(Frame.HEADERS, 0x4, 1, CONNECT_BLOCK + repeated)).code == CALM


FLOODS = {
    "SETTINGS": [settings({})] * 100,
    "PING": [frame(Frame.PING, 0, 0, bytes(8))] * 1000,
    "WINDOW_UPDATE": [window_update(0, 1)] * 10,
    "PRIORITY": [frame(Frame.PRIORITY, 0, 1, bytes(5))] * 2000,
    "resets before the answer": [
        connect_frame(n) + frame(Frame.RST_STREAM, 0, n, b"\0\0\0\x08") for n in range(1, 2000, 2)
    ],
    "CONTINUATION": [OPEN_BLOCK] + [frame(Frame.CONTINUATION, 0, 1)] * (MAX_CONTINUATIONS + 1),
    "empty DATA": [connect_frame(1)] + [frame(Frame.DATA, 0, 1)] * 1000,
    "streams over the limit": [connect_frame(n) for n in range(1, 3000, 2)],
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(flood):
    server = handshaken_server(answer=False)
    assert server.feed(*flood).code == CALM


@pytest.mark.parametrize("name", ["SETTINGS", "PING"])
def test_the_same_frames_over_a_longer_time_are_no_flood(name):
    server = handshaken_server()
    for wire in FLOODS[name]:
        server.now_s += 1.0
        assert server.feed(wire) is None


def test_many_short_streams_in_one_second_are_no_flood():
    server = handshaken_server()
    for n in range(1, 10_000, 2):
        assert server.feed(connect_frame(n) + frame(Frame.DATA, 1, n)) is None
        server.tunnel.streams[n].end()
    assert not server.tunnel.streams


def test_priority_and_unknown_frames_are_ignored_and_ping_is_answered():
    server = handshaken_server()
    wire = frame(Frame.PRIORITY, 0, 1, bytes(5)) + frame(77, 0, 1, bytes(70_000))
    assert server.feed(wire + frame(Frame.PING, 0, 0, b"12345678")) is None
    assert server.frames() == [(Frame.PING, 1, 0, b"12345678")]
