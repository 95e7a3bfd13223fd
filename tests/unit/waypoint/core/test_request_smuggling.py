"""Requests that two readers might understand differently (RFC 9112, sections 2 to 7): each is
refused or has one meaning, and cutting it into single bytes changes nothing."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.core.test_http1 import HOST, outcome
from waypoint.core.message import RequestHead

GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"

REFUSED = {
    # the request line (section 3)
    "no version": (b"GET /\r\n\r\n", 426),
    "a version in lower case": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "a long version": (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    "a padded version": (b"GET / HTTP/01.1\r\n" + HOST + b"\r\n", 400),
    "space behind the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "tabs between": (b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method in lower case": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a bare CR": (b"GET / HTTP/1.1\r" + HOST + b"\r\n\r\n", 400),
    "a user in the target": (b"GET http://user@host/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    # fields (section 5)
    "space in front of the first field": (b"GET / HTTP/1.1\r\n host: x\r\n\r\n", 400),
    "no colon": (GET + b"nocolon\r\n\r\n", 400),
    "no name": (GET + b": v\r\n\r\n", 400),
    "DEL in a value": (GET + b"a: \x7f\r\n\r\n", 400),
    "a user in Host": (b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400),
    "a port that is no number": (b"GET / HTTP/1.1\r\nhost: a:b\r\n\r\n", 400),
    # lengths (section 6)
    "no length": (POST + b"content-length:\r\n\r\n", 400),
    "two numbers": (POST + b"content-length: 3 4\r\n\r\nabc", 400),
    "a negative length": (POST + b"content-length: -1\r\n\r\n", 400),
    "an underscore": (POST + b"content-length: 1_0\r\n\r\n0123456789", 400),
    "NUL behind a length": (POST + b"content-length: 3\0\r\n\r\nabc", 400),
    "VT in front of a length": (POST + b"content-length: \x0b3\r\n\r\nabc", 400),
    "two lengths": (POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
    "chunked twice": (POST + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n" + LAST, 400),
    "identity behind chunked": (
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + LAST,
        400,
    ),
    "gzip behind chunked": (POST + b"transfer-encoding: chunked, gzip\r\n\r\n" + LAST, 400),
    "space in front of the colon": (POST + b"transfer-encoding : chunked\r\n\r\n" + LAST, 400),
    "an empty coding": (POST + b"transfer-encoding:\r\n\r\n", 400),
    "a quoted coding": (POST + b'transfer-encoding: "chunked"\r\n\r\n' + LAST, 501),
    "a coding with parameters": (POST + b"transfer-encoding: chunked;a=b\r\n\r\n" + LAST, 501),
    "an empty element": (POST + b"transfer-encoding: ,chunked\r\n\r\n" + LAST, 501),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_heads(case):
    raw, status = case
    for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
        found = outcome(pieces)
        assert [event[0] for event in found] == [status], found


CHUNKS = {
    "LF in an extension": b"3;a\nb\r\nabc\r\n" + LAST,
    "CR in an extension": b"3;a\rb\r\nabc\r\n" + LAST,
    "the last size ends with LF": b"3\r\nabc\r\n0\n\r\n",
    "the end is LF": b"0\r\n\n",
    "more than the size": b"3\r\nabcX\r\n" + LAST,
    "space in front of a size": b" 3\r\nabc\r\n" + LAST,
    "a sign": b"+3\r\nabc\r\n" + LAST,
    "a coding in the trailers": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a length in the trailers": b"0\r\ncontent-length: 5\r\n\r\n",
    "folded trailers": b"0\r\na: b\r\n c\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_chunks(chunks):
    """The request has begun; it ends in an error, and nothing that follows is a request."""
    raw = CHUNKED + chunks + GET + b"\r\n"
    for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
        found = outcome(pieces)
        assert isinstance(found[0], RequestHead)
        assert found[-1] == (400, "http1.codec_error")
        assert sum(isinstance(event, RequestHead) for event in found) == 1


def test_empty_lines_in_front_of_a_request_are_skipped():
    """Section 2.2."""
    head, _ = outcome([b"\r\n" + GET + b"\r\n"])
    assert head.target == "/"


def test_a_field_that_only_looks_like_a_coding_is_passed_on_and_frames_nothing():
    head, _ = outcome([POST + b"transfer_encoding: chunked\r\ncontent-length: 0\r\n\r\n"])
    assert (head.content_length, head.headers.get("transfer_encoding")) == (0, "chunked")
