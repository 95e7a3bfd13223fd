"""Any bytes as HTTP/2 to the waypoint: as a client's connection and as an endpoint's."""

from __future__ import annotations

from tests.unit.waypoint.core.test_http2 import (
    DONE,
    GET,
    OK,
    OPEN,
    Wire,
    block,
    data,
    headers,
    raw,
    request,
)
from waypoint.core.message import Headers, RequestHead, Response

SEEDS = [
    DONE + headers(3),
    OPEN + data(1, b"abc") + data(1, b"", ("END_STREAM",)),
    OPEN + data(1, b"abc", pad=4) + headers(1, [("x-sum", "7")]),
    headers(1, flags=()) + raw(9, 4, 1, block(GET)[:0]),
    raw(4, 0, 0, b"\0\4\0\0\0\1") + raw(8, 0, 0, b"\0\0\1\0") + raw(6, 0, 0, b"12345678"),
    headers(1, OK, ("END_HEADERS",)) + data(1, b"abc") + headers(1, [("grpc-status", "0")]),
    headers(1, [(":status", "103")], ("END_HEADERS",)) + headers(1, OK),
    raw(7, 0, 0, b"\0\0\0\1\0\0\0\0") + raw(3, 0, 1, b"\0\0\0\7"),
]


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    for client in (False, True):
        wire = Wire(client=client)
        opened = [wire.http2.request(request("POST"))] if client else []
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]):
            wire.feed(piece)
            if wire.error is not None:
                break
            for stream in [*opened, *wire.listener.requests]:
                _take(stream)
        for stream in wire.listener.requests:
            assert isinstance(stream.head, RequestHead)
            if wire.error is None and not stream.local_ended and not stream.answered:
                wire.http2.respond(stream, Response(200, Headers([("a", "b")]), end=True))
        for frame in wire.sent():
            assert frame.body_len <= 1 << 20


def _take(stream):
    while (event := stream.take()) is not None:
        if isinstance(event, Response):
            assert 100 <= event.status <= 999
            assert not any(c in v for _, v in event.headers for c in "\r\n\0")
