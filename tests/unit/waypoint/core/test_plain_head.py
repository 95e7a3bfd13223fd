"""Heads that are read line by line mean what the parser says, or are left to it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from waypoint.core import http1, http1_response
from waypoint.core.http1 import BadMessageError, RequestReader
from waypoint.core.http1_response import ResponseReader
from waypoint.core.plain_head import read_fields, read_request_line, read_status_line


class OnlyParsed(RequestReader):
    def _read_plain(self, data):
        return data


class OnlyParsedResponse(ResponseReader):
    def _read_plain(self, data):
        return False


def joined(reader, pieces):
    """What the pieces mean, however content is cut, and what is wrong with them at the end."""
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


def cut(raw, places):
    at = sorted(place % (len(raw) + 1) for place in places)
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]


LINES = st.sampled_from(
    [
        b"Host: x", b"host: reviews:9080", b"Host:x", b"host: ", b"host: a b", b"HOST: [::1]:80",
        b"content-length: 3", b"Content-Length: 0", b"content-length: 3, 3", b"content-length: +3",
        b"content-length:\t3 ", b"transfer-encoding: chunked", b"connection: keep-alive",
        b"Connection: close", b"connection: x-a", b"connection: Keep-Alive, Upgrade",
        b"upgrade: websocket", b"keep-alive: timeout=5", b"te: trailers", b"expect: 100-continue",
        b"x-a: 1", b"X-A:  two words\t", b"x-a:", b"x-b: \xe9\xff", b"a : b", b" folded", b"x",
        b"x-c: a\rb", b"x-c: a\nb", b"x-c: a\0b", b"x-c: \x7f", b"\xe9: b", b"", b"cookie: a=b; c",
        b"x-e: \x80\xa0", b"(): b", b"x-f: \x0b", b"proxy-connection: close", b"trailer: x-t",
    ]
)  # fmt: skip
STARTS = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"POST /a?b=%20 HTTP/1.1", b"HEAD /x HTTP/1.1", b"GET /a b HTTP/1.1",
        b"GET http://h/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET / HTTP/1.0", b"get / HTTP/1.1",
        b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /#f HTTP/1.1", b"GET /\xe9 HTTP/1.1",
        b"PUT /'()* HTTP/1.1", b"DELETE // HTTP/1.1", b"\r\nGET / HTTP/1.1", b"GET /\x7f HTTP/1.1",
    ]
)  # fmt: skip
STATUSES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 ", b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 099 x", b"HTTP/1.1 600 x",
        b"HTTP/1.1 503 \xe9", b"HTTP/1.1 2000 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK",
        b"HTTP/1.1 101 S", b"HTTP/1.1 404 Not Found",
    ]
)  # fmt: skip
BODIES = st.sampled_from([b"", b"abc", b"ab", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n"])


def messages(starts):
    made = st.tuples(starts, st.lists(LINES, max_size=5), BODIES).map(
        lambda parts: b"\r\n".join([parts[0], *parts[1], b"", parts[2]])
    )
    return st.lists(made, min_size=1, max_size=3).map(b"".join)


@given(messages(STARTS), st.lists(st.integers(0, 400), max_size=3))
@example(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: y\r\n\r\n", [])
@settings(max_examples=600)
def test_requests_mean_what_the_parser_says(raw, places):
    pieces = cut(raw, places)
    assert joined(RequestReader(), pieces) == joined(OnlyParsed(), pieces)


@given(messages(STATUSES), st.lists(st.integers(0, 400), max_size=3), st.sampled_from("GH"))
@settings(max_examples=600)
def test_responses_mean_what_the_parser_says(raw, places, initial):
    method = {"G": "GET", "H": "HEAD"}[initial]
    one, other = ResponseReader(method), OnlyParsedResponse(method)
    assert joined(one, cut(raw, places)) == joined(other, cut(raw, places))
    assert (one.reusable, one.surplus, one.eof()) == (other.reusable, other.surplus, other.eof())


def test_what_is_usual_is_read_without_the_parser(monkeypatch):
    def refuse(*_):
        raise AssertionError("the parser was asked")

    reader = RequestReader()
    monkeypatch.setattr(reader, "_parser", None)
    post = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nx-a: 1\r\n\r\nabc"
    events = joined(reader, [post + b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
    assert [type(event).__name__ for event in events] == [
        "RequestHead",
        "bytes",
        "End",
        "RequestHead",
        "End",
    ]
    monkeypatch.setattr(http1_response.httptools, "HttpResponseParser", refuse)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhe"
    response = ResponseReader("GET")
    (head, *rest) = joined(response, [answer, b"llo"])
    assert (head.status, list(head.headers)) == (200, [])
    assert rest == [b"hello", http1.END]
    assert response.reusable


@pytest.mark.parametrize("name", ["authorization", "cookie"])
def test_secrets_are_not_kept(name):
    from waypoint.core import plain_head

    line = f"{name}: secret".encode()
    assert read_fields([b"", line]) is not None
    assert line not in plain_head._known


def test_lines_that_never_come_again_do_not_pile_up():
    from waypoint.core import plain_head

    for number in range(2 * plain_head._MOST_KNOWN):
        assert read_fields([b"", b"x-request-id: %d" % number]) is not None
    assert len(plain_head._known) <= plain_head._MOST_KNOWN


def test_first_lines():
    assert read_request_line(b"GET /a HTTP/1.1") == ("GET", "/a")
    assert read_request_line(b"GET /a HTTP/1.0") is None
    assert read_status_line(b"HTTP/1.1 404 Not Found") == (404, "Not Found")
    assert read_status_line(b"HTTP/1.1 101 Switching") is None
