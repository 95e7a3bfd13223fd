"""Any bytes as HTTP/1.1: requests of a client, and an endpoint's response, in any cut."""

from __future__ import annotations

from ambient.api.address import HostPort, parse_ip
from waypoint.core.http1 import BadMessageError, RequestReader
from waypoint.core.http1_response import ResponseReader
from waypoint.core.http1_write import write_request, write_response
from waypoint.core.message import End, Headers, Peer, Request, RequestHead, Response

PEER, AT = Peer(None, parse_ip("10.0.0.1")), HostPort("10.0.0.2", 80)
SEEDS = [
    b"GET /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;a=b\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    b"GET http://h:1/ HTTP/1.1\r\nHost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n"
    b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello",
]


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    whole = _requests([data])
    middle = len(data) // 2
    cut = _requests([data[:middle], data[middle:]])
    assert _joined(cut) == _joined(whole)
    for method in ("GET", "HEAD"):
        _response(method, [data[:middle], data[middle:]])


def _requests(pieces):
    reader = RequestReader()
    events: list[object] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                events.append(event)
                if isinstance(event, RequestHead):
                    _check_head(event)
    except BadMessageError as bad:
        events.append(bad.status)
    return events


def _check_head(head):
    """What goes on upstream is one request, framed once, whatever came in."""
    assert not (head.content_length is not None and not head.has_body and head.content_length)
    request = Request(
        head.method,
        head.target,
        head.authority or "",
        head.headers,
        PEER,
        AT,
        content_length=head.content_length,
        has_body=head.has_body,
    )
    try:
        wire = write_request(request)
    except BadMessageError:
        return
    again = RequestReader()
    again.feed(wire)
    read = again.next()
    assert isinstance(read, RequestHead)
    assert (read.method, read.target) == (head.method, head.target)
    assert (read.content_length or 0, read.has_body) == (head.content_length or 0, head.has_body)
    assert again.next() == (None if head.has_body else End())


def _joined(events):
    """Bodies are cut where the reads were cut."""
    found: list[object] = []
    for event in events:
        if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += event
        else:
            found.append(event)
    return found


def _response(method, pieces):
    reader = ResponseReader(method)
    done = False
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                assert not done, "something behind the end"
                done = isinstance(event, End)
                if not isinstance(event, bytes | End):
                    headers = Headers(event.headers.items)
                    write_response(Response(event.status, headers, event.reason))
        reader.eof()
    except BadMessageError:
        return
    if reader.reusable:
        assert done
