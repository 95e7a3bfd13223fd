"""Heads of HTTP/1.1 messages as almost all of them are written, read line by line.

What a line means is remembered, since most lines come again and again, and so are whole heads: a
head then costs a look-up, or one for each line, where a parser calls us back for each field.
Whatever is not plain (another form or framing, a limit, anything that might be an error) is left to
the parser, whose word is final: a head that is read here means the same there.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from waypoint.core.head_facts import facts_of
from waypoint.core.message import Headers, RequestHead
from waypoint.core.message_limits import LIMITS

AUTHORITY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%-]+(?::\d*)?|\[[0-9A-Fa-f:.]+\](?::\d*)?")

_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_REQUEST: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) (/[A-Za-z0-9/_.~%?&=+,;:@!$'()*-]*) HTTP/1\.1"
)
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ([\x20-\x7e]*)")
_NOT_PLAIN: Final = frozenset(
    ("transfer-encoding", "upgrade", "te", "expect", "trailer", "keep-alive", "proxy-connection")
)
_SECRET: Final = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization"))
_LONGEST_KNOWN: Final = 96
_MOST_KNOWN: Final = 4096
_LONGEST_HEAD: Final = 1024
_MOST_HEADS: Final = 256

_FIELD, _HOST, _LENGTH, _NOTHING = range(4)


class _Line(NamedTuple):
    kind: int
    field: tuple[str, str]


class PlainHead(NamedTuple):
    """The fields of a head, without those that frame it.

    ``common``: each of its lines is one to be remembered, so the whole head may be.
    """

    headers: Headers
    host: str | None
    content_length: int | None
    common: bool = True


class PlainResponse(NamedTuple):
    """A response's head; whoever edits its headers takes a copy."""

    status: int
    reason: str
    headers: Headers
    content_length: int | None


_known: dict[bytes, _Line] = {}
_requests: dict[bytes, tuple[int, RequestHead]] = {}
_responses: dict[bytes, tuple[int, PlainResponse]] = {}
"""Whole heads, with their numbers of lines."""


def _read(raw: bytes) -> _Line | None:
    """What a line says; None where that is not for us to decide."""
    match = _LINE.fullmatch(raw)
    if match is None:
        return None
    name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1").strip(" \t")
    kind = _FIELD
    if name in _NOT_PLAIN:
        return None
    if name == "host":
        if not AUTHORITY.fullmatch(value):
            return None
        kind = _HOST
    elif name == "content-length":
        if not (value.isascii() and value.isdigit()) or len(value) > 15:
            return None
        kind = _LENGTH
    elif name == "connection":
        if value.lower() != "keep-alive":
            return None
        kind = _NOTHING
    line = _Line(kind, (name, value))
    if len(raw) <= _LONGEST_KNOWN and name not in _SECRET:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[raw] = line
    return line


def read_fields(lines: list[bytes]) -> PlainHead | None:
    """The lines behind the first; None where they are not plain."""
    if len(lines) > LIMITS.fields + 1:
        return None
    fields: list[tuple[str, str]] = []
    host: str | None = None
    length: int | None = None
    common = True
    known = _known.get
    for raw in lines[1:]:
        line = known(raw)
        if line is None:
            line = _read(raw)
            if line is None:
                return None
            common = common and raw in _known
        kind, field = line
        if kind == _FIELD:
            fields.append(field)
        elif kind == _HOST:
            if host is not None:
                return None
            host = field[1]
        elif kind == _LENGTH:
            if length is not None:
                return None
            length = int(field[1])
    return PlainHead(Headers(fields), host, length, common)


def read_request(raw: bytes) -> RequestHead | None:
    """The head of a request, without the empty line behind it; not to be edited. None where it is
    not plain."""
    known = _requests.get(raw)
    if known is not None and known[0] <= LIMITS.fields + 1:
        return known[1]
    lines = raw.split(b"\r\n")
    start = read_request_line(lines[0])
    found = read_fields(lines) if start is not None else None
    if start is None or found is None:
        return None
    length = found.content_length
    facts = facts_of(found.headers.items)
    head = RequestHead(*start, "1.1", found.host, found.headers, length, bool(length), facts)
    if found.common and len(raw) <= _LONGEST_HEAD:
        if len(_requests) >= _MOST_HEADS:
            _requests.clear()
        _requests[raw] = len(lines), head
    return head


def read_response(raw: bytes) -> PlainResponse | None:
    """The same for a final response."""
    known = _responses.get(raw)
    if known is not None and known[0] <= LIMITS.fields + 1:
        return known[1]
    lines = raw.split(b"\r\n")
    start = read_status_line(lines[0])
    found = read_fields(lines) if start is not None else None
    if start is None or found is None or found.host is not None:
        return None
    head = PlainResponse(*start, found.headers, found.content_length)
    if found.common and len(raw) <= _LONGEST_HEAD:
        if len(_responses) >= _MOST_HEADS:
            _responses.clear()
        _responses[raw] = len(lines), head
    return head


def read_request_line(line: bytes) -> tuple[str, str] | None:
    """Method and target; None where the line is not plain."""
    match = _REQUEST.fullmatch(line)
    return None if match is None else (match[1].decode("ascii"), match[2].decode("ascii"))


def read_status_line(line: bytes) -> tuple[int, str] | None:
    """Status and reason of a final response; None where the line is not plain."""
    match = _STATUS.fullmatch(line)
    return None if match is None else (int(match[1]), match[2].decode("ascii"))
