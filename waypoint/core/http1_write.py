"""HTTP/1.1 onto the wire. Every message leaves with exactly one way of framing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from waypoint.core.http1 import BadMessageError
from waypoint.core.message import Request, Response

_BODILESS: Final = frozenset(("GET", "HEAD", "DELETE", "TRACE", "CONNECT"))
"""Methods that seldom have content; others say that they have none (RFC 9110, section 8.6)."""
_TARGET = re.compile(r"[\x21-\x7e\x80-\xff]+")


def write_request(request: Request) -> bytes:
    """The head for the upstream: exactly one way of framing. Raises BadMessageError."""
    if not _TARGET.fullmatch(request.target):
        raise BadMessageError(400, "invalid_path")
    lines = [f"{request.method} {request.target} HTTP/1.1", f"host: {request.authority}"]
    lines += map(": ".join, request.headers.items)
    if request.content_length is not None:
        lines.append(f"content-length: {request.content_length}")
    elif request.has_body:
        lines.append("transfer-encoding: chunked")
    elif request.method not in _BODILESS:
        lines.append("content-length: 0")
    if request.upgrade:
        lines += [f"upgrade: {request.upgrade}", "connection: upgrade"]
    return _join(lines)


def write_response(
    response: Response, *, length: int | None = None, chunked: bool = False, close: bool = False
) -> bytes:
    """The head for the client, framed by a length, by chunks, or by the end of the connection."""
    lines = [f"HTTP/1.1 {response.status} {response.reason or REASONS.get(response.status, '')}"]
    lines += map(": ".join, response.headers.items)
    if chunked:
        lines.append("transfer-encoding: chunked")
    elif length is not None:
        lines.append(f"content-length: {length}")
    if response.status == 101:
        lines.append("connection: upgrade")
    elif close:
        lines.append("connection: close")
    return _join(lines)


def _join(lines: list[str]) -> bytes:
    text = "\r\n".join(lines) + "\r\n\r\n"
    if text.count("\n") != len(lines) + 1 or text.count("\r") != len(lines) + 1 or "\0" in text:
        raise BadMessageError(500, "invalid_header_value")
    return text.encode("latin-1", "replace")


def write_chunk(data: bytes) -> bytes:
    """A chunk; empty data would end the body and gives nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def write_last_chunk(trailers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The end of a chunked body."""
    lines = [f"{name}: {value}\r\n" for name, value in trailers]
    return b"0\r\n" + "".join(lines).encode("latin-1") + b"\r\n"


REASONS: Final = {
    100: "Continue",
    101: "Switching Protocols",
    200: "OK",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
