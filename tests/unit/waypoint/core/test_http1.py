"""HTTP/1.1 off and onto the wire, and what must never pass."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambient.api.address import HostPort, parse_ip
from waypoint.core.http1 import (
    BadMessageError,
    End,
    RequestHead,
    RequestReader,
)
from waypoint.core.http1_response import ResponseHead, ResponseReader
from waypoint.core.http1_write import write_chunk, write_last_chunk, write_request, write_response
from waypoint.core.message import Headers, Peer, Request, Response

HOST = b"host: x\r\n"


def outcome(pieces, reader=None):
    """Everything that the pieces mean: bodies joined, and the error at the end if there is one."""
    reader = reader or RequestReader()
    found: list[object] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
                    found[-1] += event
                else:
                    found.append(event)
    except BadMessageError as bad:
        found.append((bad.status, bad.details))
    return found


def cut(raw, sizes):
    """The same bytes in pieces of these sizes."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(raw[at : at + size])
        at += size
    return [*pieces, raw[at:]]


def head_of(raw):
    events = outcome([raw])
    assert isinstance(events[0], RequestHead), events
    return events[0]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n c\r\n\r\n", 400),  # obs-fold
        (b"GET / HTTP/1.1\r\n" + HOST + b"a : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\0c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\x01c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"\xe4: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 426),
        (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
        (b"WHAT / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"content-length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 0x3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 99999999999999999999\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\n"
            + HOST
            + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
        ),
        (
            b"POST / HTTP/1.1\r\n"
            + HOST
            + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
def test_smuggling_and_malformed_heads_are_refused(raw, status):
    found = outcome([raw])
    assert len(found) == 1, found
    assert found[0][0] == status, found


@pytest.mark.parametrize("coding", [b"xchunked", b"identity", b"chunked, chunked", b"\x0bchunked"])
def test_only_one_transfer_coding_is_known(coding):
    raw = b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: " + coding + b"\r\n\r\n0\r\n\r\n"
    assert not any(isinstance(event, RequestHead) for event in outcome([raw]))


@pytest.mark.parametrize(
    "chunks",
    [
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nabc",
        b"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\na : b\r\n\r\n",
    ],
)
def test_bad_chunks_are_refused(chunks):
    head = b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    found = outcome([head + chunks])
    assert found[-1][0] == 400
    assert End() not in found


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 70_000,
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * 70_000,
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"a: b\r\n" * 110,
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 70_000,
    ],
)
def test_heads_and_trailers_have_limits(raw):
    assert outcome(cut(raw, [5000] * 20))[-1][0] == 431


def test_a_request_with_everything():
    raw = (
        b"POST http://Shop:80/a?b HTTP/1.1\r\nHost: other\r\n"
        b"Connection: close, x-hop, Authorization\r\nX-Hop: 1\r\nAuthorization: me\r\n"
        b"TE: trailers, gzip\r\nKeep-Alive: 5\r\nX-A:  1 \r\nX-A: 2\r\nExpect: 100-continue\r\n"
        b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\nHost: no\r\n\r\n"
    )
    head, body, end = outcome([raw])
    assert (head.method, head.target, head.authority) == ("POST", "/a?b", "Shop:80")
    assert head.headers.items == [
        ("authorization", "me"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("expect", "100-continue"),
        ("te", "trailers"),
    ]
    assert (head.has_body, head.content_length, head.keep_alive) == (True, None, False)
    assert head.expect_continue
    assert (body, end) == (b"abc", End((("x-t", "1"),)))


def test_nothing_after_a_closing_request_is_read():
    raw = b"GET / HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n"
    assert len(outcome([raw + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"])) == 2
    assert len(outcome([raw, b"garbage"])) == 2


def test_an_error_comes_after_the_requests_in_front_of_it():
    found = outcome([b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n\n"])
    assert [type(event) for event in found] == [RequestHead, End, tuple]


def test_an_upgrade_keeps_what_follows_and_can_be_declined():
    raw = b"GET /1 HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    reader = RequestReader()
    assert outcome([raw + b"\x81\x00", b"more"], reader)[0].upgrade == "websocket"
    assert reader.take_rest() == b"\x81\x00more"
    reader = RequestReader()
    outcome([raw, b"GET /2 HTTP/1.1\r\n"], reader)
    reader.resume()
    head, end = outcome([HOST + b"\r\n"], reader)
    assert (head.target, end) == ("/2", End())


def test_upgrades_to_http2_are_not_offered_on():
    raw = b"GET / HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert head_of(raw).upgrade == ""


def test_idle_means_that_no_request_has_begun():
    reader = RequestReader()
    assert reader.idle
    reader.feed(b"GET / HT")
    assert not reader.idle
    reader.feed(b"TP/1.1\r\n" + HOST + b"\r\n")
    assert not reader.idle
    assert len(outcome([b""], reader)) == 2
    assert reader.idle


WHOLE = (
    b"GET /1?a=b HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\n"
    b"POST /2 HTTP/1.1\r\nHost: x\r\ncontent-length: 10\r\n\r\n0123456789"
    b"POST /3 HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4\r\nabcd\r\n6;x=y\r\nefghij\r\n0\r\nT: 1\r\n\r\n"
    b"HEAD /4 HTTP/1.1\r\nHost: x\r\n\r\n"
)


@given(sizes=st.lists(st.integers(1, 60), max_size=40))
def test_cutting_requests_changes_nothing(sizes):
    assert outcome(cut(WHOLE, sizes)) == outcome([WHOLE])


@given(raw=st.binary(max_size=200), sizes=st.lists(st.integers(1, 20), max_size=8))
def test_garbage_ends_in_events_or_in_our_error(raw, sizes):
    prefix = b"POST / HTTP/1.1\r\nHost: x\r\n"
    outcome(cut(raw, sizes))
    outcome(cut(prefix + raw, sizes))


NAMES = st.sampled_from(["x-a", "x-b", "accept", "cookie"])
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)


@settings(max_examples=60)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    path=st.text("abc/%20?=&-._~", max_size=20),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=8),
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=5),
    chunked=st.booleans(),
)
def test_what_we_write_an_independent_parser_reads_back(method, path, fields, chunks, chunked):
    """Reader to writer to h11: the same request, framed exactly once."""
    ours = h11.Connection(h11.CLIENT)
    framing = (
        ("transfer-encoding", "chunked")
        if chunked
        else ("content-length", str(sum(map(len, chunks))))
    )
    wire = ours.send(
        h11.Request(method=method, target="/" + path, headers=[("host", "h:1"), *fields, framing])
    )
    for chunk in chunks:
        wire += ours.send(h11.Data(data=chunk))
    wire += ours.send(h11.EndOfMessage())
    head, *rest = outcome([wire])
    request = Request(
        head.method,
        head.target,
        head.authority,
        head.headers,
        Peer(None, parse_ip("10.0.0.1")),
        HostPort("10.0.0.2", 80),
        content_length=head.content_length,
        has_body=head.has_body,
    )
    out = write_request(request)
    for event in rest:
        if isinstance(event, bytes):
            out += write_chunk(event) if chunked else event
        elif chunked:
            out += write_last_chunk(event.trailers)
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(out)
    read = theirs.next_event()
    assert (read.method.decode(), read.target.decode()) == (method, "/" + path)
    kept = [(n.decode(), v.decode()) for n, v in read.headers]
    assert kept == [("host", "h:1"), *fields, framing]
    body = b""
    while isinstance(event := theirs.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (body, theirs.trailing_data[0]) == (b"".join(chunks), b"")


def responses(raw, method="GET", sizes=()):
    reader = ResponseReader(method)
    return outcome(cut(raw, sizes), reader), reader


@pytest.mark.parametrize(
    ("raw", "method", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "GET", b"abc", True),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "GET",
            b"abc",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", "HEAD", b"", True),
        (b"HTTP/1.1 204 None\r\n\r\n", "GET", b"", True),
        (b"HTTP/1.1 304 Same\r\ncontent-length: 3\r\n\r\n", "GET", b"", True),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
            "GET",
            b"abc",
            False,
        ),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", "GET", b"abc", False),
        (
            b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc",
            "GET",
            b"abc",
            True,
        ),
        # bytes behind the response: the connection is not to be trusted any more
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n",
            "GET",
            b"abc",
            False,
        ),
        (b"HTTP/1.1 204 None\r\n\r\nabc", "GET", b"", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "HEAD", b"", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx", "GET", b"", False),
    ],
)
def test_responses_end_where_they_end(raw, method, body, reusable):
    found, reader = responses(raw, method)
    assert b"".join(event for event in found if isinstance(event, bytes)) == body
    assert isinstance(found[-1], End)
    assert reader.reusable is reusable


def test_a_response_until_the_end_of_the_connection():
    found, reader = responses(b"HTTP/1.1 200 OK\r\n\r\nab", sizes=[19])
    assert found[0].until_eof
    assert found[1:] == [b"ab"]
    assert reader.eof()
    assert reader.next() == End()
    assert not reader.reusable


def test_a_response_that_is_cut_short_is_noticed():
    for raw in (b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"):
        _, reader = responses(raw)
        assert not reader.eof()


def test_informational_responses_come_first():
    found, reader = responses(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 x\r\n\r\n"
    )
    assert [event.status for event in found[:-1]] == [100, 103, 204]
    assert reader.reusable


def test_switching_protocols_keeps_the_rest():
    raw = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x00"
    found, reader = responses(raw)
    assert found[0].headers.items == [("upgrade", "websocket")]
    assert reader.take_rest() == b"\x81\x00"
    assert not reader.reusable


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\n\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * 70_000,
    ],
)
def test_broken_responses_are_refused(raw):
    found, _ = responses(raw, sizes=[5000] * 20)
    assert isinstance(found[-1], tuple), found
    assert found[-1][0] in (502, 431)


@given(sizes=st.lists(st.integers(1, 30), max_size=20))
def test_cutting_responses_changes_nothing(sizes):
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 Fine\r\nA: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        b"4\r\nabcd\r\n2\r\nef\r\n0\r\nT: 1\r\n\r\n"
    )
    assert responses(raw, sizes=sizes)[0] == responses(raw)[0]


def test_a_line_break_from_configuration_cannot_split_a_response():
    with pytest.raises(BadMessageError):
        write_response(Response(200, Headers([("a", "b\r\nc: d")])))


def test_responses_are_framed_once():
    text = write_response(Response(200, Headers([("a", "b")])), chunked=True, close=True)
    assert (
        text
        == b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    assert isinstance(responses(text + b"0\r\n\r\n")[0][0], ResponseHead)
