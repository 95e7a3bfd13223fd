"""Heads of HTTP/2 messages: RFC 9113 section 8 as tables."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from waypoint.core.http2_head import (
    MalformedError,
    TooLargeError,
    read_request,
    read_response,
    read_trailers,
    request_fields,
    response_fields,
)
from waypoint.core.message import Headers, Peer, Request, Response

TEXT = st.text(st.characters(max_codepoint=255), max_size=12)
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "h:1")]


def raw(*fields):
    return list(fields)


def changed(name, value):
    """GET with one pseudo-header changed, or left out where the value is None."""
    kept = [(n, value if n == name else v) for n, v in GET]
    return [(n, v) for n, v in kept if v is not None]


@pytest.mark.parametrize(
    "fields",
    [
        changed(":method", None),
        changed(":method", ""),
        changed(":method", "G T"),
        changed(":scheme", None),
        changed(":scheme", "ftp"),
        changed(":path", None),
        changed(":path", ""),
        changed(":path", "a"),
        changed(":path", "http://h/"),
        changed(":path", "/a b"),
        changed(":path", "/a\tb"),
        changed(":authority", "h/x"),
        changed(":authority", "user@h"),
        [*GET, (":method", "GET")],
        [*GET, (":status", "200")],
        [*GET, (":unknown", "x")],
        [("x-a", "1"), *GET],
        [*GET, ("X-A", "1")],
        [*GET, ("", "1")],
        [*GET, ("x a", "1")],
        [*GET, ("x:a", "1")],
        [*GET, ("x\0a", "1")],
        [*GET, ("x-a", "1\r\nx: 2")],
        [*GET, ("x-a", "1\n")],
        [*GET, ("x-a", "1\0")],
        [*GET, ("x-a", " 1")],
        [*GET, ("x-a", "1\t")],
        [*GET, ("connection", "close")],
        [*GET, ("keep-alive", "1")],
        [*GET, ("proxy-connection", "x")],
        [*GET, ("transfer-encoding", "chunked")],
        [*GET, ("upgrade", "h2c")],
        [*GET, ("te", "gzip")],
        [*GET, ("content-length", "x")],
        [*GET, ("content-length", "+1")],
        [*GET, ("content-length", "1"), ("content-length", "1")],
        [*GET, ("content-length", "9" * 19)],
        [(":method", "CONNECT")],
        [(":method", "CONNECT"), (":authority", "h:1"), (":path", "/")],
        [*GET, (":protocol", "websocket")],
        [(":method", "CONNECT"), (":protocol", "web socket"), *GET[1:]],
        [(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "h:1")],
        [(":method", "CONNECT"), (":protocol", "x"), *GET[1:], ("content-length", "1")],
        [],
    ],
)
def test_malformed_requests(fields):
    with pytest.raises(MalformedError):
        read_request(raw(*fields), end=False)


def test_what_asks_for_another_protocol():
    fields = [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]]
    head = read_request(raw(*fields), end=False)
    assert (head.method, head.upgrade, head.has_body) == ("GET", "websocket", False)


def test_a_content_length_without_content():
    with pytest.raises(MalformedError):
        read_request(raw(*GET, ("content-length", "1")), end=True)
    assert read_request(raw(*GET, ("content-length", "0")), end=True).content_length == 0


@pytest.mark.parametrize(
    "more", [[("x-a", "b" * 61_440)], [("x-a", "")] * 101, [("x-a", "b" * 700)] * 90]
)
def test_heads_have_limits(more):
    with pytest.raises(TooLargeError):
        read_request(raw(*GET, *more), end=True)


def test_a_request_with_everything():
    head = read_request(
        raw(*GET, ("host", "other"), ("te", "trailers"), ("cookie", "a=1"), ("x-a", "é"))
        + raw(("cookie", "b=2"), ("content-length", "3"), ("expect", "100-continue")),
        end=False,
    )
    assert (head.method, head.target, head.authority, head.version) == ("GET", "/a?b", "h:1", "2")
    assert (head.content_length, head.has_body, head.expect_continue) == (3, True, True)
    assert head.headers.items == [
        ("te", "trailers"),
        ("x-a", "é"),
        ("expect", "100-continue"),
        ("cookie", "a=1; b=2"),
    ]
    assert read_request(raw(*GET[:3], ("host", "h")), end=True).authority == "h"
    assert read_request(raw(*changed(":path", "*")), end=True).target == "*"


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(":status", "")],
        [(":status", "20")],
        [(":status", "099")],
        [(":status", "abc")],
        [(":status", "2000")],
        [(":status", "101")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), ("connection", "close")],
    ],
)
def test_malformed_responses(fields):
    with pytest.raises(MalformedError):
        read_response(raw(*fields), end=False, head=False)


@pytest.mark.parametrize(
    ("status", "end", "head", "length", "good"),
    [
        ("103", False, False, None, True),
        ("103", True, False, None, False),
        ("200", True, False, "5", False),
        ("200", True, True, "5", True),
        ("304", True, False, "5", True),
        ("204", True, False, None, True),
    ],
)
def test_lengths_of_responses(status, end, head, length, good):
    fields = raw((":status", status), *([("content-length", length)] if length else []))
    if good:
        response = read_response(fields, end=end, head=head)
        assert response.status == int(status)
        assert response.end is end
    else:
        with pytest.raises(MalformedError):
            read_response(fields, end=end, head=head)


def test_trailers():
    assert read_trailers(raw(("grpc-status", "0"), ("content-length", "3"))) == (
        ("grpc-status", "0"),
    )
    for bad in ((":status", "200"), ("connection", "x"), ("X", "y")):
        with pytest.raises(MalformedError):
            read_trailers(raw(bad))


@given(
    st.lists(st.tuples(st.sampled_from(["x-a", "x-b", "accept"]), st.text("ab c!é", max_size=9)))
)
def test_what_is_written_reads_back(fields):
    fields = [(n, v.strip()) for n, v in fields]
    peer, at = Peer(None, ip_address("10.0.0.1")), HostPort("10.0.0.2", 80)
    request = Request("POST", "/x", "h", Headers(fields), peer, at, content_length=3, has_body=True)
    head = read_request(raw(*request_fields(request)), end=False)
    assert (head.method, head.target, head.authority) == ("POST", "/x", "h")
    assert (head.headers.items, head.content_length) == (fields, 3)
    response = read_response(
        raw(*response_fields(Response(200, Headers(fields), "", 4))), end=False, head=False
    )
    assert (response.headers.items, response.content_length) == (fields, 4)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=8))
def test_garbage_is_malformed_or_read(fields):
    for read in (
        lambda: read_request(fields, end=False),
        lambda: read_response(fields, end=False, head=False),
        lambda: read_trailers(fields),
    ):
        try:
            read()
        except (MalformedError, TooLargeError):
            continue
