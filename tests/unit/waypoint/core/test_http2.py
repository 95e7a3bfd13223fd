"""HTTP/2 connections frame by frame: RFC 9113 as tables, for servers and clients.

The numbers are those of the RFC's sections, as h2spec orders its cases.
"""

from __future__ import annotations

from ipaddress import ip_address

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ambient.api.address import HostPort
from ambient.hbone.core.errors import PeerError
from ambient.hbone.core.frames import PREFACE
from ambient.hbone.core.limits import OUTPUT_MOST
from waypoint.core.http1 import BadMessageError
from waypoint.core.http2 import Http2, HttpStream, client_limits, server_limits
from waypoint.core.message import End, Headers, Peer, Request, Response

GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")]
POST = [(":method", "POST"), *GET[1:]]
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11


class Listener:
    def __init__(self):
        self.requests = []

    def settled(self): ...

    def pong(self, payload): ...

    def going_away(self): ...

    def requested(self, stream):
        self.requests.append(stream)

    def ended(self, stream): ...

    def touch(self): ...


class Wire:
    """One end under test, and what it has sent."""

    def __init__(self, *, client=False):
        self.listener = Listener()
        self.http2 = Http2(
            self.listener,
            client_limits() if client else server_limits(),
            HttpStream,
            client=client,
        )
        self.http2.start()
        self.sent()
        self.error = None
        hello = b"" if client else PREFACE
        self.feed(hello + SettingsFrame(0).serialize())
        self.sent()

    def feed(self, data, now_s=1.0):
        try:
            self.http2.receive(memoryview(data), now_s)
        except PeerError as error:
            self.error = int(error.code)
        return self

    def sent(self):
        data = bytes(self.http2.out).removeprefix(PREFACE)
        self.http2.out.clear()
        frames = []
        while data:
            frame, length = Frame.parse_frame_header(memoryview(data[:9]))
            frame.parse_body(memoryview(data[9 : 9 + length]))
            frames.append(frame)
            data = data[9 + length :]
        return frames

    def resets(self):
        return {f.stream_id: f.error_code for f in self.sent() if isinstance(f, RstStreamFrame)}


def block(fields):
    return hpack.Encoder().encode(fields)


def headers(stream_id=1, fields=GET, flags=("END_HEADERS", "END_STREAM"), raw=None):
    frame = HeadersFrame(stream_id, raw if raw is not None else block(fields))
    frame.flags |= set(flags)
    return frame.serialize()


def data(stream_id=1, content=b"x", flags=(), pad=None):
    frame = DataFrame(stream_id, content)
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    frame.flags |= set(flags)
    return frame.serialize()


def raw(kind, flags=0, stream_id=0, payload=b"", length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


OPEN = headers(1, POST, ("END_HEADERS",))
DONE = headers(1)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        # 4.1, 4.2: frame format and size
        (raw(0, 0, 1, b"x" * 65_537), SIZE),
        (raw(4, 0, 0, b"x" * 5), SIZE),
        (raw(6, 0, 0, b"x" * 7), SIZE),
        (OPEN + raw(3, 0, 1, b"x" * 3), SIZE),
        (OPEN + raw(8, 0, 1, b"x" * 3), SIZE),
        (raw(4, 1, 0, b"x" * 6), SIZE),
        (raw(2, 0, 1, b"x" * 4), SIZE),
        (raw(7, 0, 0, b"x" * 7), SIZE),
        # 4.3: header compression
        (headers(raw=b"\x80"), COMPRESSION),
        (headers(raw=b"\x7f\xff\xff\xff\xff\xff\xff"), COMPRESSION),
        (headers(flags=()) + PriorityFrame(1).serialize(), PROTOCOL),
        (headers(flags=()) + headers(3), PROTOCOL),
        (headers(flags=()) + raw(0xFA, 0, 1, b""), PROTOCOL),
        (headers(flags=()) + ContinuationFrame(3, b"", flags=["END_HEADERS"]).serialize(),
         PROTOCOL),
        (headers(raw=b"\x3f\xff\xff\x03" + block(GET)), COMPRESSION),  # a table above ours
        (headers(raw=block(GET) + b"\x20"), COMPRESSION),  # its size changes at the start only
        (headers(raw=b"\x82\x87\x84\x41\x84\xff\xff\xff\xff"), COMPRESSION),  # Huffman's EOS
        (ContinuationFrame(1, b"").serialize(), PROTOCOL),
        # 5.1: stream states
        (data(1), PROTOCOL),
        (RstStreamFrame(1).serialize(), PROTOCOL),
        (WindowUpdateFrame(1, 1).serialize(), PROTOCOL),
        (headers(2), PROTOCOL),
        (raw(1, 5, 0, block(GET)), PROTOCOL),
        (DONE + data(5), PROTOCOL),
        (headers(5) + headers(3), PROTOCOL),  # 5.1.1: below a later one, and never opened
        (headers(9) + headers(1), PROTOCOL),
        (raw(2, 0, 0, b"x" * 5), PROTOCOL),
        # 6.1 DATA, 6.2 HEADERS
        (raw(0, 0, 0, b"x"), PROTOCOL),
        (OPEN + raw(0, 8, 1, b"\x05abc"), PROTOCOL),
        (raw(1, 0x0D, 1, b"\xff" + block(GET)), PROTOCOL),
        # 6.4 to 6.10
        (raw(3, 0, 0, b"\0\0\0\0"), PROTOCOL),
        (raw(4, 0, 1, b""), PROTOCOL),
        (raw(4, 0, 0, b"\0\x02\0\0\0\x02"), PROTOCOL),
        (raw(4, 0, 0, b"\0\x04\x80\0\0\0"), FLOW),
        (raw(4, 0, 0, b"\0\x05\0\0\x3f\xff"), PROTOCOL),
        (raw(4, 0, 0, b"\0\x05\x01\0\0\0"), PROTOCOL),
        (raw(6, 0, 1, b"x" * 8), PROTOCOL),
        (raw(7, 0, 1, b"x" * 8), PROTOCOL),
        (raw(8, 0, 0, b"\0\0\0\0"), PROTOCOL),
        (raw(8, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
        (OPEN + WindowUpdateFrame(1, 0x7FFF0000).serialize()
         + raw(4, 0, 0, b"\0\x04\x7f\xff\xff\xff"), FLOW),  # 6.9.2
        (raw(5, 4, 1, b"\0\0\0\x02" + block(GET)), PROTOCOL),
        (raw(9, 4, 0), PROTOCOL),
        # floods: frames that cost the sender less than us
        (b"".join(headers(n, POST, ("END_HEADERS",)) + RstStreamFrame(n).serialize()
                  for n in range(1, 1001, 2)), CALM),
        (PingFrame(0, b"x" * 8).serialize() * 200, CALM),
        (SettingsFrame(0).serialize() * 50, CALM),
        (OPEN + data(1, b"") * 200, CALM),
        (OPEN + data(1, b"", pad=200) * 200, CALM),
        (PriorityFrame(1).serialize() * 2000, CALM),
        (WindowUpdateFrame(0, 1).serialize() * 10, CALM),
        (OPEN + WindowUpdateFrame(1, 1).serialize() * 10, CALM),
        (OPEN + RstStreamFrame(1).serialize() + WindowUpdateFrame(1, 1).serialize() * 10, CALM),
        (raw(4, 0, 0, b"\0\x04\0\0\0\x01" * 2000), CALM),
        # "made you reset" (CVE-2025-8671): what the peer makes us reset, it has reset
        (b"".join(headers(n, GET[:2]) for n in range(1, 1001, 2)), CALM),
        (b"".join(headers(n, POST, ("END_HEADERS",)) + raw(8, 0, n, b"\0\0\0\0")
                  for n in range(1, 1001, 2)), CALM),
        (b"".join(headers(n, POST, ("END_HEADERS",)) + raw(8, 0, n, b"\x7f\xff\xff\xff")
                  for n in range(1, 1001, 2)), CALM),
        (b"".join(headers(n) + data(n) for n in range(1, 1001, 2)), CALM),
        (b"".join(headers(n, [*POST, ("content-length", "1")], ("END_HEADERS",)) + data(n, b"xx")
                  for n in range(1, 1001, 2)), CALM),
        (headers(flags=()) + ContinuationFrame(1, b"").serialize() * 20, CALM),
        (headers(1, [*GET, *[("x-a", "b" * 3900)] * 100]), CALM),
    ],
)  # fmt: skip
def test_a_server_ends_connections(frames, code):
    wire = Wire().feed(frames)
    assert wire.error == code
    (goaway,) = [frame for frame in wire.sent() if isinstance(frame, GoAwayFrame)]
    assert goaway.error_code == code


@pytest.mark.parametrize(
    ("frames", "resets"),
    [
        (OPEN + data(1, b"x", ("END_STREAM",)) + data(1), {1: CLOSED}),  # 5.1, half-closed
        (OPEN + raw(8, 0, 1, b"\0\0\0\0"), {1: PROTOCOL}),
        (OPEN + raw(8, 0, 1, b"\x7f\xff\xff\xff"), {1: FLOW}),
        (headers(1, [("X-A", "b"), *GET]), {1: PROTOCOL}),  # 8.2
        (headers(1, [*GET, ("connection", "close")]), {1: PROTOCOL}),
        (headers(1, [*GET, ("te", "gzip")]), {1: PROTOCOL}),
        (headers(1, [*GET, (":path", "/x")]), {1: PROTOCOL}),  # 8.3
        (headers(1, GET[:2]), {1: PROTOCOL}),
        (headers(1, [*GET, (":status", "200")]), {1: PROTOCOL}),
        (headers(1, [*GET, ("content-length", "1")]), {1: PROTOCOL}),  # 8.1.1
        (headers(1, [*POST, ("content-length", "1")], ("END_HEADERS",))
         + data(1, b"xx"), {1: PROTOCOL}),
        (headers(1, [*POST, ("content-length", "3")], ("END_HEADERS",))
         + data(1, b"xx", ("END_STREAM",)), {1: PROTOCOL}),
        (OPEN + headers(1, [("x-a", "b")], ("END_HEADERS",)), {1: PROTOCOL}),  # trailers go on
        (OPEN + headers(1, [(":path", "/")]), {1: PROTOCOL}),
        (OPEN + headers(1, [("X-A", "b")]), {1: PROTOCOL}),
        (OPEN + headers(1, [("transfer-encoding", "chunked")]), {1: PROTOCOL}),
        (OPEN + data(1, b"", ("END_STREAM",)) + headers(1, [("x-a", "b")]), {1: PROTOCOL}),
        (DONE + headers(1, [("x-a", "b")]), {1: PROTOCOL}),
        (headers(1, [*GET, *[("x-a", "")] * 101]), {1: CALM}),
        (headers(1, [*GET, ("x-a", "b" * 62_000)]), {1: CALM}),
    ],
)  # fmt: skip
def test_a_server_resets_streams_and_goes_on(frames, resets):
    wire = Wire().feed(frames)
    assert wire.resets() == resets
    assert wire.error is None
    wire.feed(headers(3))
    assert wire.listener.requests[-1].id == 3


@pytest.mark.parametrize(
    "frames",
    [
        raw(0xFA, 0xFF, 0, b"unknown"),  # 4.1: unknown types are ignored
        raw(0xFA, 0xFF, 1, b"x" * 60_000),
        raw(6, 0xFE & ~1, 0, b"x" * 8),  # unknown flags
        PriorityFrame(5, depends_on=5).serialize(),
        raw(4, 0, 0, b"\x00\x99\0\0\0\x01"),  # an unknown setting
        raw(0xFA, 0, 0x80000001, b""),  # the reserved bit
        OPEN + RstStreamFrame(1).serialize() + data(1) + WindowUpdateFrame(1, 1).serialize(),
        GoAwayFrame(0).serialize(),
        OPEN + data(1, b"abc", ("END_STREAM",), pad=9),
        headers(1, flags=()) + ContinuationFrame(1, b"", flags=["END_HEADERS"]).serialize(),
        WindowUpdateFrame(0, 1).serialize() * 5,
        raw(4, 0, 0, b"\0\x04\0\0\0\0") + OPEN + raw(4, 0, 0, b"\0\x04\0\0\0\x01"),
        headers(raw=b"\x20\x3f\xe1\x1f" + block(GET)),  # RFC 7541, 4.2: two sizes, at the start
        headers(raw=b"\x20" + block(GET)),
        headers(1) + headers(1),  # a stream that is over: its block is read, that is all
        headers(7) + RstStreamFrame(7).serialize() + headers(7),
    ],
)
def test_a_server_takes_it(frames):
    wire = Wire().feed(frames)
    assert wire.error is None
    wire.feed(headers(11))
    assert wire.listener.requests[-1].id == 11


def test_who_receives_may_say_so():
    """WINDOW_UPDATE is bounded by what was sent: two for each piece of DATA and more are none."""
    wire = Wire().feed(OPEN)
    (stream,) = wire.listener.requests
    wire.http2.respond(stream, Response(200, Headers()))
    for _ in range(500):
        assert stream.send(b"x" * 100) == 100
        updates = WindowUpdateFrame(0, 100).serialize() + WindowUpdateFrame(1, 100).serialize()
        assert wire.feed(updates).error is None
    wire.feed(WindowUpdateFrame(0, 1).serialize() * 20_000)
    assert wire.error == CALM


def test_answers_that_nobody_reads_end_the_connection():
    wire = Wire()
    wire.http2.out += bytes(OUTPUT_MOST)
    assert wire.feed(raw(1, 5, 1, block(GET))).error is None
    wire.http2.out += b"x"
    assert wire.feed(PingFrame(0, b"x" * 8).serialize()).error == CALM


def test_ids_come_to_an_end():
    wire = Wire().feed(headers(0x7FFFFFFF))
    assert wire.listener.requests[-1].id == 0x7FFFFFFF
    assert wire.feed(headers(0x7FFFFFFD)).error == PROTOCOL
    client = Wire(client=True)
    client.http2._next_id = 0x7FFFFFFF
    assert client.http2.room > 0
    assert client.http2.request(request()).id == 0x7FFFFFFF
    assert client.http2.room == 0


def test_content_in_small_pieces_is_held_in_larger_ones():
    wire = Wire().feed(OPEN)
    (stream,) = wire.listener.requests
    for _ in range(50):
        wire.feed(data(1, b"ab") * 1000)
    assert len(stream.events) < 30
    assert b"".join(stream.take_all()) == b"ab" * 50_000
    wire.feed(data(1, b"c", ("END_STREAM",)))
    assert stream.take_all() == [b"c", End()]


def test_bad_beginnings():
    listener = Listener()
    for start in (b"GET / HTTP/1.1\r\n\r\n\r\n\r\nxxxxxxxx", PREFACE + DONE, PREFACE + raw(6)):
        http2 = Http2(listener, server_limits(), HttpStream, client=False)
        with pytest.raises(PeerError):
            http2.receive(memoryview(start), 1.0)
    assert not listener.requests


def test_more_streams_than_allowed_are_refused():
    wire = Wire()
    for number in range(server_limits().max_streams + 2):
        wire.feed(headers(2 * number + 1, POST, ("END_HEADERS",)))
    assert list(wire.resets().values()) == [REFUSED, REFUSED]
    assert len(wire.listener.requests) == server_limits().max_streams


def test_content_above_the_windows_ends_the_connection():
    wire = Wire().feed(OPEN)
    for _ in range(server_limits().stream_window // 16_384):
        wire.feed(data(1, b"x" * 16_384))
    assert wire.error is None
    wire.feed(data(1, b"x"))
    assert wire.error == FLOW


def test_taking_content_gives_credit():
    wire = Wire().feed(OPEN)
    (stream,) = wire.listener.requests
    for _ in range(12):
        wire.feed(data(1, b"x" * 16_384))
    assert not wire.sent()
    while stream.take():
        pass
    updates = {f.stream_id: f.window_increment for f in wire.sent()}
    assert updates[1] >= server_limits().stream_window // 2


def request(method="GET", fields=()):
    peer = Peer(None, ip_address("10.0.0.1"))
    return Request(method, "/", "h", Headers(fields), peer, HostPort("10.0.0.2", 80))


def answered(*frames, method="GET"):
    """A client that has sent a request and received these frames; the stream's events."""
    wire = Wire(client=True)
    stream = wire.http2.request(request(method))
    wire.sent()
    wire.feed(b"".join(frames))
    events = []
    while (event := stream.take()) is not None:
        events.append(event)
    return wire, stream, events


OK = [(":status", "200")]


def test_responses_with_the_same_head_are_not_the_same():
    wire = Wire(client=True)
    streams = [wire.http2.request(request()) for _ in range(3)]
    encoded = block([*OK, ("x-a", "1")])
    for stream in streams[:2]:
        wire.feed(headers(stream.id, raw=encoded))
    (first, _), (second, _) = (stream.take_all() for stream in streams[:2])
    first.headers.set("x-a", "2")
    assert list(second.headers) == [("x-a", "1")]
    wire.feed(headers(streams[2].id, raw=encoded))
    assert list(streams[2].take().headers) == [("x-a", "1")]


def test_a_client_reads_responses():
    _, _, events = answered(
        headers(1, [(":status", "103"), ("link", "x")], ("END_HEADERS",)),
        headers(1, [*OK, ("content-length", "3")], ("END_HEADERS",)),
        data(1, b"abc"),
        headers(1, [("x-sum", "7")]),
    )
    assert [type(event) for event in events] == [Response, Response, bytes, End]
    assert events[0].informational
    assert (events[1].status, events[1].content_length) == (200, 3)
    assert events[3] == End((("x-sum", "7"),))
    _, _, events = answered(headers(1, [*OK, ("content-length", "9")]), method="HEAD")
    assert events[0].end
    assert events[0].content_length == 9


@pytest.mark.parametrize(
    "frames",
    [
        headers(1, [("x-a", "b")]),
        headers(1, [(":status", "99")]),
        headers(1, [(":status", "101")], ("END_HEADERS",)),
        headers(1, [(":status", "103")]),
        headers(1, [*OK, ("content-length", "3")]),
        headers(1, [*OK, ("content-length", "3")], ("END_HEADERS",)) + data(1, b"abcd"),
        headers(1, [*OK, ("transfer-encoding", "chunked")]),
        headers(1, OK, ("END_HEADERS",)) + headers(1, OK),
        headers(1, [(":status", "204")], ("END_HEADERS",)) + data(1, b"x"),  # 8.1.1
        headers(1, [(":status", "304"), ("content-length", "1")], ("END_HEADERS",)) + data(1),
        headers(1, [(":status", "103")], ("END_HEADERS",)) * 101,
        headers(1, [("X-A", "b"), *OK]),
        headers(1, [*OK, (":status", "200")]),
        headers(1, [*OK, (":path", "/")]),
        headers(1, [*OK, ("connection", "close")]),
        headers(1, [*OK, ("content-length", "3"), ("content-length", "4")], ("END_HEADERS",)),
        headers(1, OK, ("END_HEADERS",)) + headers(1, [(":status", "200")]),
        headers(1, OK, ("END_HEADERS",)) + headers(1, [("a", "b")], ("END_HEADERS",)),
    ],
)
def test_a_client_refuses_broken_responses(frames):
    wire, stream, _ = answered(frames)
    assert wire.resets() == {1: PROTOCOL}
    assert type(stream.error).__name__ == "BrokenRulesError"
    assert wire.error is None
    assert wire.http2.room


def test_the_answer_to_head_has_no_content():
    wire, _, _ = answered(headers(1, OK, ("END_HEADERS",)), data(1, b"x"), method="HEAD")
    assert wire.resets() == {1: PROTOCOL}
    ended = data(1, b"", ("END_STREAM",))
    for method, status in (("HEAD", "200"), ("GET", "204"), ("GET", "304")):
        head = headers(1, [(":status", status)], ("END_HEADERS",))
        wire, _, events = answered(head, ended, method=method)
        assert [type(one) for one in events] == [Response, End]
        assert wire.resets() == {}


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (data(1), PROTOCOL),  # before the head
        (WindowUpdateFrame(0, 1).serialize() * 20, CALM),
        (headers(2), PROTOCOL),
        (headers(3, OK), PROTOCOL),
        (raw(5, 4, 1, b"\0\0\0\x02" + block(GET)), PROTOCOL),
        (raw(4, 0, 0, b"\0\x02\0\0\0\x01"), PROTOCOL),
        # floods of an endpoint
        (headers(1, OK, flags=()) + ContinuationFrame(1, b"").serialize() * 20, CALM),
        (PingFrame(0, b"x" * 8).serialize() * 200, CALM),
        (SettingsFrame(0).serialize() * 50, CALM),
        (headers(1, [*OK, *[("x-a", "b" * 3900)] * 100]), CALM),
    ],
)
def test_a_client_ends_connections(frames, code):
    wire, stream, _ = answered(frames)
    assert wire.error == code
    assert stream.error is None  # the shell tells the streams, when it closes the connection


def test_a_server_that_leaves_names_what_it_took():
    wire = Wire(client=True)
    first, second = wire.http2.request(request()), wire.http2.request(request())
    wire.feed(GoAwayFrame(0, last_stream_id=1).serialize())
    assert first.error is None
    assert second.error.retryable
    assert wire.http2.room == 0


def test_what_cannot_be_sent_is_not():
    wire = Wire(client=True)
    with pytest.raises(BadMessageError):
        wire.http2.request(request(fields=[("x", "a\r\nb")]))
    assert not wire.sent()
    server = Wire().feed(headers(1))
    (stream,) = server.listener.requests
    with pytest.raises(BadMessageError):
        server.http2.respond(stream, Response(200, Headers([("Bad Name", "x")])))
    assert not server.sent()


def test_large_heads_leave_in_several_frames():
    wire = Wire().feed(headers(1))
    (stream,) = wire.listener.requests
    many = Headers([(f"x-{n}", "y" * 1000) for n in range(40)])
    wire.http2.respond(stream, Response(200, many, end=True))
    frames = wire.sent()
    assert [type(f) for f in frames] == [HeadersFrame, ContinuationFrame, ContinuationFrame]
    assert "END_STREAM" in frames[0].flags
    text = b"".join(f.data for f in frames)
    assert len(hpack.Decoder().decode(text, raw=True)) == 41


FRAMES = st.one_of(
    st.sampled_from([OPEN, DONE, headers(3), data(1), data(1, b"", ("END_STREAM",))]),
    st.builds(
        raw, st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=20)
    ),
    st.binary(max_size=30),
)


@settings(max_examples=200)
@given(frames=st.lists(FRAMES, max_size=12), client=st.booleans(), size=st.integers(1, 40))
def test_any_bytes_in_any_cut_end_in_events_or_in_our_error(frames, client, size):
    wire = Wire(client=client)
    if client:
        wire.http2.request(request())
    whole = b"".join(frames)
    for at in range(0, len(whole), size):
        wire.feed(whole[at : at + size])
        if wire.error is not None:
            break
    for stream in list(wire.http2.streams.values()):
        while stream.take() is not None:
            pass
    wire.sent()
