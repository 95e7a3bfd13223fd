"""Streams, half-close, resets, windows and leaving, between our two roles."""

from __future__ import annotations

import pytest

from ambient.hbone.core.connect import ConnectRequest, ConnectResponse
from ambient.hbone.core.errors import ConnectionLostError
from ambient.hbone.core.frames import (
    DEFAULT_WINDOW,
    ErrorCode,
    Frame,
    Setting,
    frame,
    go_away,
    rst_stream,
    settings,
    window_update,
)
from ambient.hbone.core.limits import CLIENT_LIMITS, OUTPUT_HIGH, SERVER_LIMITS
from tests.unit.ambient.hbone.core.wire import (
    CONNECT_BLOCK,
    connect_frame,
    connected,
    handshaken_client,
    handshaken_server,
    shuttle,
)

OK_BLOCK = b"\x88"  # :status 200
MIB = 1024 * 1024


def test_a_stream_opens_carries_bytes_and_ends_on_both_sides():
    client, server = connected()
    stream = client.open("10.0.0.7:80", (("baggage", "k8s.pod.name=web"),))
    shuttle(client, server)
    stream.send(b"hello")
    stream.end()
    shuttle(client, server)
    served = server.tunnel.streams[1]
    served.send(b"bye")
    served.end()
    shuttle(client, server)
    request = ConnectRequest("10.0.0.7:80", (("baggage", "k8s.pod.name=web"),))
    assert server.log == [
        ("request", 1, request),
        ("data", 1, b"hello"),
        ("end", 1, None),
        ("closed", 1, None),
    ]
    assert client.log == [
        ("response", 1, ConnectResponse(200)),
        ("data", 1, b"bye"),
        ("end", 1, None),
        ("closed", 1, None),
    ]


def test_a_request_has_only_the_two_pseudo_headers_of_connect():
    client, server = connected()
    client.open("10.0.0.7:80")
    block = next(payload for kind, _, _, payload in client.frames() if kind == Frame.HEADERS)
    assert server.tunnel.decode(block) == [
        (b":method", b"CONNECT"),
        (b":authority", b"10.0.0.7:80"),
    ]


def test_a_refusal_ends_the_stream_and_resets_what_the_client_may_still_send():
    client, server = connected(answer=False)
    client.open()
    shuttle(client, server)
    server.tunnel.respond(server.tunnel.streams[1], ConnectResponse(401))
    shuttle(client, server)
    assert client.log[:2] == [("response", 1, ConnectResponse(401)), ("end", 1, None)]
    assert client.log[2:] == [("closed", 1, None), ("failed", 1, ("HboneStreamError", 0, False))]


def test_other_methods_are_answered_400():
    server = handshaken_server()
    get = b"\x82\x87\x84\x01\x01x"  # GET https / x
    assert server.feed(frame(Frame.HEADERS, 0x5, 1, get)) is None
    kinds = [(kind, payload) for kind, _, _, payload in server.frames()]
    assert kinds[0] == (Frame.HEADERS, b"\x08\x03400")  # :status
    assert server.log == [("closed", 1, None)]


@pytest.mark.parametrize(
    "block",
    [
        b"\x01\x01x",  # no :method
        CONNECT_BLOCK + CONNECT_BLOCK,  # twice
        b"\x00\x01x\x01y" + CONNECT_BLOCK,  # pseudo-headers behind a header
        CONNECT_BLOCK + b"\x00\x01X\x01y",  # upper case
        CONNECT_BLOCK + b"\x00\x07upgrade\x01y",  # of HTTP/1.1
        CONNECT_BLOCK + b"\x00\x01x\x03a\r\n",  # a line break
        CONNECT_BLOCK + b"\x00\x09:protocol\x01y",  # extended CONNECT, which we do not offer
    ],
)
def test_a_malformed_request_resets_its_stream_only(block):
    server = handshaken_server()
    assert server.feed(frame(Frame.HEADERS, 0x4, 1, block)) is None
    assert server.frames() == [(Frame.RST_STREAM, 0, 1, b"\0\0\0\1")]
    assert server.feed(connect_frame(3)) is None
    assert server.log == [("request", 3, ConnectRequest("10.0.0.7:80"))]


def test_both_windows_bound_what_is_sent():
    client = handshaken_client()
    one, two = client.open(), client.open()
    assert one.send(b"x" * 70_000) + one.send(b"x" * 70_000) == 2 * 16_384
    assert client.feed(settings({Setting.MAX_FRAME_SIZE: 65_536})) is None
    while one.send(b"x" * 70_000):
        pass
    assert (one.send_window, client.tunnel.send_window, two.budget()) == (0, 0, 0)
    client.tunnel.block(one)
    client.tunnel.block(two)
    client.log.clear()
    assert client.feed(window_update(0, 10)) is None
    assert client.log == [("writable", 1, None), ("writable", 3, None)]
    assert (one.budget(), two.budget()) == (0, 10)
    client.tunnel.block(one)
    client.log.clear()
    assert client.feed(window_update(1, 5)) is None
    assert client.log == [("writable", 1, None)]
    assert one.budget() == 5


def test_settings_change_the_windows_of_open_streams_also_below_zero():
    client = handshaken_client()
    stream = client.open()
    stream.send(b"x" * 10)
    assert client.feed(settings({Setting.INITIAL_WINDOW_SIZE: 4})) is None
    assert stream.send_window == -6
    assert stream.send(b"more") == 0
    client.tunnel.block(stream)
    assert client.feed(settings({Setting.INITIAL_WINDOW_SIZE: 20})) is None
    assert ("writable", 1, None) in client.log
    assert stream.budget() == 10


def test_window_updates_come_at_half_a_window_and_only_for_credited_bytes():
    client, server = connected(generous=False)
    stream = client.open()
    shuttle(client, server)
    half = SERVER_LIMITS.stream_window // 2
    _send_all(client, server, stream, half + 1)
    served = server.tunnel.streams[1]
    assert server.take() == b""
    served.credit(half - 1)
    assert server.take() == b""
    served.credit(1)
    assert server.take() == window_update(1, half)


def _send_all(client, server, stream, size):
    payload = b"x" * size
    while payload:
        sent = stream.send(payload)
        payload = payload[sent:]
        client.tunnel.congested = False
        assert server.feed(client.take()) is None


def test_four_stuck_streams_fill_the_connection_window_and_no_more():
    client, server = connected(generous=False)
    streams = [client.open() for _ in range(5)]
    shuttle(client, server)
    for stream in streams[:4]:
        _send_all(client, server, stream, CLIENT_LIMITS.stream_window)
    assert streams[4].budget() == 0
    assert server.tunnel.receive_window == 0


def test_bytes_of_a_stream_that_was_reset_still_return_to_the_connection_window():
    client, server = connected(generous=False)
    stream = client.open()
    shuttle(client, server)
    server.tunnel.reset(server.tunnel.streams[1], ErrorCode.CANCEL)
    sent = 0
    while sent < 8 * MIB and stream.budget():
        sent += stream.send(b"x" * MIB)
        client.tunnel.congested = False
        assert server.feed(client.take()) is None
    assert server.tunnel.receive_window + server.tunnel.owed == SERVER_LIMITS.connection_window


def test_too_much_waiting_output_stops_everybody():
    client, server = connected()
    stream = client.open()
    shuttle(client, server)
    while stream.budget():
        stream.send(b"x" * MIB)
    assert client.tunnel.congested
    assert len(client.tunnel.out) <= OUTPUT_HIGH + MIB


def test_overrunning_a_window_ends_the_connection():
    server = handshaken_server(generous=False)
    server.feed(connect_frame(1))
    piece = frame(Frame.DATA, 0, 1, bytes(MIB))
    assert server.feed(piece, piece, piece, piece) is None
    error = server.feed(frame(Frame.DATA, 0, 1, b"x"))
    assert error.code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(ErrorCode.CANCEL, False), (ErrorCode.REFUSED_STREAM, True), (99, False)],
)
def test_a_reset_fails_the_stream_and_leaves_the_others(code, retryable):
    client = handshaken_client()
    client.open()
    client.open()
    assert client.feed(rst_stream(1, code)) is None
    assert client.log == [
        ("closed", 1, None),
        ("failed", 1, ("HboneStreamError", code, retryable)),
    ]
    assert list(client.tunnel.streams) == [3]


def test_go_away_fails_only_streams_that_the_peer_did_not_take():
    client = handshaken_client()
    for _ in range(3):
        client.open()
    assert client.feed(go_away(3, ErrorCode.NO_ERROR)) is None
    assert client.log == [
        ("closed", 5, None),
        ("failed", 5, ("HboneStreamError", 0, True)),
        ("going away", 0, None),
    ]
    assert client.tunnel.room == 0
    assert client.feed(frame(Frame.HEADERS, 0x4, 3, OK_BLOCK)) is None
    assert client.log[-1] == ("response", 3, ConnectResponse(200))


def test_leaving_takes_the_streams_under_way_and_ignores_later_ones():
    server = handshaken_server()
    server.tunnel.announce_leave()
    server.feed(connect_frame(1))
    server.tunnel.leave()
    frames = [f for f in server.frames() if f[0] == Frame.GOAWAY]
    assert [int.from_bytes(payload[:4], "big") for *_, payload in frames] == [2**31 - 1, 1]
    assert server.feed(connect_frame(3), frame(Frame.DATA, 0, 1, b"still here")) is None
    assert server.log[-1] == ("data", 1, b"still here")
    assert list(server.tunnel.streams) == [1]


def test_a_lost_connection_fails_every_stream():
    client = handshaken_client()
    client.open()
    client.open()
    client.tunnel.lose(ConnectionLostError("gone", ErrorCode.CONNECT_ERROR))
    failed = [entry for entry in client.log if entry[0] == "failed"]
    assert [stream for _, stream, _ in failed] == [1, 3]
    assert client.tunnel.room == 0


def test_more_streams_than_advertised_are_refused_one_by_one():
    server = handshaken_server()
    ids = range(1, 2 * SERVER_LIMITS.max_streams, 2)
    assert server.feed(*map(connect_frame, ids)) is None
    server.take()
    assert server.feed(connect_frame(2 * SERVER_LIMITS.max_streams + 1)) is None
    refused = ErrorCode.REFUSED_STREAM.to_bytes(4, "big")
    assert server.frames() == [(Frame.RST_STREAM, 0, 2 * SERVER_LIMITS.max_streams + 1, refused)]


def test_the_peer_limits_how_many_streams_we_open():
    client = handshaken_client()
    assert client.feed(settings({Setting.MAX_CONCURRENT_STREAMS: 1})) is None
    stream = client.open()
    assert client.tunnel.room == 0
    client.tunnel.reset(stream, ErrorCode.CANCEL)
    assert client.tunnel.room == 1


def test_trailers_end_a_stream_and_interim_answers_do_not_start_one():
    client = handshaken_client()
    client.open()
    early_hints = b"\x08\x03103"
    assert client.feed(frame(Frame.HEADERS, 0x4, 1, early_hints)) is None
    assert client.log == []
    assert client.feed(frame(Frame.HEADERS, 0x4, 1, OK_BLOCK)) is None
    assert client.feed(frame(Frame.HEADERS, 0x5, 1, b"\x00\x01a\x01b")) is None
    assert client.log == [("response", 1, ConnectResponse(200)), ("end", 1, None)]


def test_padding_is_dropped_and_credited():
    server = handshaken_server(generous=False)
    server.feed(connect_frame(1))
    assert server.feed(frame(Frame.DATA, 0x9, 1, b"\x03abc\0\0\0")) is None
    assert server.log[1:] == [("data", 1, b"abc"), ("end", 1, None)]
    assert server.tunnel.owed == 4


def test_a_long_header_block_is_cut_to_the_peers_frame_size():
    client = handshaken_client()
    client.open(headers=tuple((f"x-{n}", "~" * 1000) for n in range(40)))
    pieces = client.frames()
    assert [kind for kind, *_ in pieces][1:] == [Frame.CONTINUATION] * (len(pieces) - 1)
    assert all(len(payload) <= 16_384 for *_, payload in pieces)
    assert pieces[-1][1] == 0x4


def test_the_default_window_holds_until_settings_arrive():
    client, _ = connected()
    assert client.tunnel.peer_initial_window == SERVER_LIMITS.stream_window
    assert handshaken_client().tunnel.peer_initial_window == DEFAULT_WINDOW
