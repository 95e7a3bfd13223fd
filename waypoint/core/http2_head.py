"""Heads and trailers of HTTP/2 messages: header lists to requests and responses and back.

What RFC 9113 section 8 calls malformed is refused here, before anything is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from waypoint.core.field_block import BAD_VALUE, NAME
from waypoint.core.head_facts import facts_of
from waypoint.core.http1 import HOP_BY_HOP
from waypoint.core.message import Headers, Request, RequestHead, Response
from waypoint.core.message_limits import LIMITS
from waypoint.core.plain_head import AUTHORITY

Fields = list[tuple[str, str]]

_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(r"[\x21-\x7e\x80-\xff]+")
_REQUEST_PSEUDO: Final = frozenset((":method", ":scheme", ":path", ":authority", ":protocol"))
_RESPONSE_PSEUDO: Final = frozenset((":status",))
_NO_PSEUDO: Final[frozenset[str]] = frozenset()
_REFUSED: Final = HOP_BY_HOP - {"te"}
_NOT_IN_TRAILERS: Final = HOP_BY_HOP | {"content-length", "host", "trailer"}


_GOOD_FIELDS: Final = 4096
_good: set[tuple[str, str]] = set()
"""Regular fields that were found to be well-formed: most come again and again."""


def _note(field: tuple[str, str]) -> None:
    if len(field[1]) < 128:
        if len(_good) >= _GOOD_FIELDS:
            _good.clear()
        _good.add(field)


class MalformedError(ValueError):
    """A message that HTTP/2 forbids: its stream is reset with PROTOCOL_ERROR."""


class TooLargeError(ValueError):
    """A head with too many bytes or fields."""


class _Split(NamedTuple):
    pseudo: dict[str, str]
    rest: Fields


def read_request(raw: Iterable[tuple[str, str]], *, end: bool) -> RequestHead:
    """The head of a request. Raises MalformedError and TooLargeError."""
    pseudo, rest = _split(raw, _REQUEST_PSEUDO)
    method = pseudo.get(":method", "")
    if not _METHOD.fullmatch(method):
        raise MalformedError("no valid :method")
    length, fields, host = _request_fields(rest)
    authority = pseudo.get(":authority", host)
    if authority and not AUTHORITY.fullmatch(authority):
        raise MalformedError("a bad :authority")
    target, scheme = pseudo.get(":path", ""), pseudo.get(":scheme", "")
    protocol = pseudo.get(":protocol", "")
    if protocol:
        if method != "CONNECT" or length is not None or not _METHOD.fullmatch(protocol):
            raise MalformedError("a bad :protocol")
        # As in Envoy, routes and policy see what HTTP/1.1 says where it asks for a protocol.
        method = "GET"
    if method == "CONNECT":
        if target or scheme or not authority:
            raise MalformedError("a bad CONNECT")
    elif scheme not in ("http", "https"):
        raise MalformedError("no valid :scheme")
    elif not _TARGET.fullmatch(target) or not (target[0] == "/" or target == "*"):
        raise MalformedError("no valid :path")
    if end and length:
        raise MalformedError("a content-length without content")
    return RequestHead(
        method=method,
        target=target,
        version="2",
        authority=authority,
        headers=Headers(fields),
        content_length=length,
        has_body=not end and not protocol,
        facts=facts_of(fields),
        upgrade=protocol,
        expect_continue=("expect", "100-continue") in fields,
        scheme=scheme,
    )


def _request_fields(rest: Fields) -> tuple[int | None, Fields, str | None]:
    """Content-Length, the other fields with cookies joined (section 8.2.3), and Host."""
    length: int | None = None
    host: str | None = None
    fields: Fields = []
    cookies: list[str] = []
    for name, value in rest:
        if name == "cookie":
            cookies.append(value)
        elif name == "content-length":
            length = _length(value, length)
        elif name == "host":
            host = value
        elif name == "te":
            if value.lower() != "trailers":
                raise MalformedError("a TE that is not trailers")
            fields.append((name, value))
        else:
            fields.append((name, value))
    if cookies:
        fields.append(("cookie", "; ".join(cookies)))
    return length, fields, host


def read_response(raw: Iterable[tuple[str, str]], *, end: bool, head: bool) -> Response:
    """The head of a response; ``head``: to a HEAD request. Raises as ``read_request``."""
    pseudo, rest = _split(raw, _RESPONSE_PSEUDO)
    said = pseudo.get(":status", "")
    if len(said) != 3 or not (said.isascii() and said.isdigit()) or said < "100" or said == "101":
        raise MalformedError("a bad :status")
    status = int(said)
    if end and status < 200:
        raise MalformedError("an interim response that ends the stream")
    length: int | None = None
    fields: Fields = []
    for name, value in rest:
        if name == "content-length":
            length = _length(value, length)
        elif name != "te":
            fields.append((name, value))
    if end and length and not (head or status == 304):
        raise MalformedError("a content-length without content")
    return Response(status, Headers(fields), "", length, end)


def read_trailers(raw: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Trailers, without what would frame a message. Raises as ``read_request``."""
    _, rest = _split(raw, _NO_PSEUDO)
    return tuple([field for field in rest if field[0] not in _NOT_IN_TRAILERS])


def _length(value: str, known: int | None) -> int:
    if known is not None or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise MalformedError("a bad content-length")
    return int(value)


def _split(raw: Iterable[tuple[str, str]], known: frozenset[str]) -> _Split:
    pseudo: dict[str, str] = {}
    rest: Fields = []
    size = 0
    for field in raw:
        name, value = field
        size += len(name) + len(value)
        if field in _good:
            rest.append(field)
            continue
        if BAD_VALUE.search(value):
            raise MalformedError(f"a bad value of {name!r}")
        if name[:1] == ":":
            if rest or name in pseudo or name not in known:
                raise MalformedError(f"unexpected pseudo-header {name!r}")
            pseudo[name] = value
        elif name in _REFUSED or not NAME.fullmatch(name):
            raise MalformedError(f"forbidden field {name!r}")
        else:
            rest.append(field)
            _note(field)
    if size > LIMITS.head_bytes or len(rest) > LIMITS.fields:
        raise TooLargeError("a head above the limits")
    return _Split(pseudo, rest)


def request_fields(request: Request) -> Fields:
    """The header list of a request."""
    fields = [
        (":method", "CONNECT" if request.upgrade else request.method),
        *([(":protocol", request.upgrade)] if request.upgrade else ()),
        (":scheme", request.scheme),
        (":authority", request.authority),
        (":path", request.target),
        *request.headers.items,
    ]
    if request.content_length is not None:
        fields.append(("content-length", str(request.content_length)))
    return fields


def response_fields(response: Response) -> Fields:
    """The header list of a response."""
    fields = [(":status", str(response.status)), *response.headers.items]
    if response.content_length is not None and response.status >= 200 and response.status != 204:
        fields.append(("content-length", str(response.content_length)))
    return fields
