"""HTTP/1.1 off the wire: reading messages piece by piece.

``httptools`` (the parser of Node.js) does the tokenising and is strict about line ends, folding,
lengths and chunks. This file adds what it does not judge: versions, Host, the one permitted
transfer coding, limits, and which response has a body.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final, NamedTuple

import httptools

from waypoint.core.message import End, Headers, RequestHead

HEAD_LIMIT: Final = 60 * 1024
"""Bytes of a message's head (Envoy: max_request_headers_kb)."""
FIELD_LIMIT: Final = 100
"""Fields of a message's head, and of its trailers (Envoy: max_headers_count)."""

HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)
_FRAMING: Final = HOP_BY_HOP | {"content-length", "host", "trailer"}
_KEPT: Final = frozenset(
    ("host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-forwarded-proto")
)
"""A Connection header cannot make us drop these: policy may have looked at them."""
AUTHORITY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%-]+(?::\d*)?|\[[0-9A-Fa-f:.]+\](?::\d*)?")
_H2C = ("h2c", "http/2.0", "tls/1.0")


class BadMessageError(Exception):
    """The peer's bytes are not an HTTP/1.1 message that we accept.

    ``status`` is the answer for a client; ``details`` the log's response code details.
    """

    def __init__(self, status: int, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


class ResponseHead(NamedTuple):
    """A response's head. Without a length and not chunked, its body lasts until the end."""

    status: int
    reason: str
    headers: Headers
    keep_alive: bool
    content_length: int | None
    chunked: bool
    bodiless: bool

    @property
    def until_eof(self) -> bool:
        """Does the body end with the connection?"""
        return not (self.bodiless or self.chunked or self.content_length is not None)

    @property
    def informational(self) -> bool:
        """A 1xx in front of the final response?"""
        return 100 <= self.status < 200 and self.status != 101


RequestEvent = RequestHead | bytes | End
ResponseEvent = ResponseHead | bytes | End


_KNOWN_NAMES: Final = 1024
_names: dict[bytes, str] = {}


def _name(raw: bytes) -> str:
    """A field's name in lower case; most come again and again."""
    if len(_names) >= _KNOWN_NAMES:
        _names.clear()
    name = _names[raw] = raw.decode("latin-1").lower()
    return name


class _Message:
    """Callbacks of one parser; collects what it says about the current message."""

    def __init__(self) -> None:
        self.events: deque[Any] = deque()
        self.error: BadMessageError | None = None
        self.begun = False
        self.in_head = True
        self.complete = False
        self.more = False
        self._url = b""
        self._fields: list[tuple[str, str]] = []
        self._trailers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    def on_message_begin(self) -> None:
        if self.complete:
            self.more = True
        self.begun, self.in_head, self.complete = True, True, False
        self._url, self._fields, self._trailers = b"", [], []

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_status(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        found = self._fields if self.in_head else self._trailers
        if len(found) >= FIELD_LIMIT:
            self.fail(431, "http1.too_many_headers")
        known = _names.get(name) or _name(name)
        found.append((known, value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.events.append(self.head(self._url.decode("latin-1"), self._fields))

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        self.complete = True
        self.flush()
        trailers = tuple(item for item in self._trailers if item[0] not in _FRAMING)
        self.events.append(End(trailers))

    def flush(self) -> None:
        """Body parts of one read become one event."""
        if self._body:
            self.events.append(self._body[0] if len(self._body) == 1 else b"".join(self._body))
            self._body.clear()

    def fail(self, status: int, details: str) -> None:
        """Give up the message."""
        self.error = BadMessageError(status, details)
        raise self.error

    def head(self, start: str, fields: list[tuple[str, str]]) -> object:
        """Judge a complete head."""
        raise NotImplementedError


class _Fields(NamedTuple):
    """The fields that frame a message, taken out of its head."""

    rest: Headers
    content_length: int | None
    chunked: bool
    connection: frozenset[str]
    upgrade: str
    hosts: tuple[str, ...]


def _sort_fields(fields: list[tuple[str, str]], failing: _Message, te_status: int) -> _Fields:
    framing: dict[str, list[str]] = {}
    rest: list[tuple[str, str]] = []
    for name, value in fields:
        if name in _FRAMING:
            framing.setdefault(name, []).append(value)
        else:
            rest.append((name, value))
    codings = framing.get("transfer-encoding")
    lengths = framing.get("content-length")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        failing.fail(te_status, "http1.invalid_transfer_encoding")
    if codings and lengths:
        failing.fail(400, "http1.content_length_and_chunked_not_allowed")
    if lengths and (len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit())):
        failing.fail(400, "http1.invalid_content_length")
    tokens = ",".join(framing.get("connection", ())).lower()
    connection = frozenset(token.strip() for token in tokens.split(",") if token.strip())
    named = connection - _KEPT
    kept = [item for item in rest if item[0] not in named] if named else rest
    if "trailers" in ",".join(framing.get("te", ())).lower():
        kept.append(("te", "trailers"))
    return _Fields(
        Headers(kept),
        int(lengths[0]) if lengths else None,
        bool(codings),
        connection,
        ",".join(framing.get("upgrade", ())) if "upgrade" in connection else "",
        tuple(framing.get("host", ())),
    )


class _RequestMessage(_Message):
    parser: Any
    closing = False

    def head(self, start: str, fields: list[tuple[str, str]]) -> RequestHead:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self.fail(400, "http1.unsupported_version")
        found = _sort_fields(fields, self, 501)
        if found.chunked and version == "1.0":
            self.fail(400, "http1.invalid_transfer_encoding")
        if len(found.hosts) > 1:
            self.fail(400, "http1.multiple_hosts")
        authority = found.hosts[0] if found.hosts else None
        if start[:7].lower() == "http://" or start[:8].lower() == "https://":
            authority, slash, rest = start.partition("//")[2].partition("/")
            if not slash:
                authority, mark, query = authority.partition("?")
                rest = mark + query
            start = "/" + rest
        if authority is not None and authority and not AUTHORITY.fullmatch(authority):
            self.fail(400, "http1.invalid_host")
        upgrade = found.upgrade if found.upgrade.lower() not in _H2C else ""
        expect = (found.rest.get("expect") or "").lower()
        self.closing = version == "1.0" or "close" in found.connection
        return RequestHead(
            method=self.parser.get_method().decode("ascii"),
            target=start,
            version=version,
            authority=authority,
            headers=found.rest,
            keep_alive=not self.closing,
            content_length=found.content_length,
            has_body=found.chunked or bool(found.content_length),
            upgrade=upgrade,
            expect_continue=expect == "100-continue",
        )


class RequestReader:
    """Reads the requests of one connection, in order, however the bytes are cut."""

    def __init__(self) -> None:
        self._message = _RequestMessage()
        self._parser = self._message.parser = httptools.HttpRequestParser(self._message)
        self._quiet = 0  # bytes since the last event: a head or trailers that do not end
        self._rest: bytearray | None = None  # set while an upgrade is undecided
        self._closed = False  # a request with "Connection: close" was read

    def feed(self, data: bytes) -> None:
        """Take bytes in; what they mean comes out of ``next``."""
        message = self._message
        if self._rest is not None:
            self._rest += data
            return
        if message.error is not None or self._closed:
            return
        known = len(message.events)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = bytearray(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if message.complete and message.closing:
                self._closed = True  # nothing after a closing request is read
            elif message.error is None:
                message.error = BadMessageError(400, "http1.codec_error")
        message.flush()
        self._quiet = 0 if len(message.events) > known else self._quiet + len(data)
        if self._quiet > HEAD_LIMIT and message.error is None:
            message.error = BadMessageError(431, "request_headers_too_large")

    def next(self) -> RequestEvent | None:
        """The next event; None asks for more bytes. Raises BadMessageError."""
        message = self._message
        if message.events:
            event: RequestEvent = message.events.popleft()
            return event
        if message.error is not None:
            raise message.error
        return None

    @property
    def idle(self) -> bool:
        """Is nothing of a request waiting or half read?"""
        message = self._message
        return not message.events and (message.complete or not message.begun)

    def take_rest(self) -> bytes:
        """After an upgrade request: the bytes behind it, which belong to the new protocol."""
        return bytes(self._rest or b"")

    def resume(self) -> None:
        """The upgrade did not happen: what follows is HTTP again."""
        if self._rest is not None:
            rest, self._rest = bytes(self._rest), None
            events = self._message.events
            self._message = _RequestMessage()
            self._message.events = events
            self._parser = self._message.parser = httptools.HttpRequestParser(self._message)
            if rest:
                self.feed(rest)


class _ResponseMessage(_Message):
    parser: Any
    head_request = False

    def head(self, start: str, fields: list[tuple[str, str]]) -> ResponseHead:
        status = self.parser.get_status_code()
        if not 100 <= status <= 599 or self.parser.get_http_version() not in ("1.0", "1.1"):
            self.fail(502, "http1.codec_error")
        found = _sort_fields(fields, self, 502)
        close = "close" in found.connection or (
            self.parser.get_http_version() == "1.0" and "keep-alive" not in found.connection
        )
        if status == 101 and found.upgrade:
            found.rest.set("upgrade", found.upgrade)
        return ResponseHead(
            status=status,
            reason=start,
            headers=found.rest,
            keep_alive=not close and status != 101,
            content_length=found.content_length,
            chunked=found.chunked,
            bodiless=self.head_request or status in (204, 304) or status < 200,
        )


class ResponseReader:
    """Reads one response, with the 1xx in front of it."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._buffer = bytearray()
        self._events: deque[ResponseEvent] = deque()
        self._message: _ResponseMessage | None = None  # set while it reads a framed body
        self._head: ResponseHead | None = None
        self._done = False
        self._quiet = 0  # bytes since the last event: trailers that do not end
        self.surplus = False
        """Did bytes arrive behind the response? Then the connection is not usable again."""

    def feed(self, data: bytes) -> None:
        """Take bytes in. Raises BadMessageError where they are no response."""
        if self._done:
            self.surplus = self.surplus or bool(data)
        elif self._head is None:
            self._buffer += data
            self._read_heads()
        elif self._message is not None:
            self._feed_body(data)
        elif data:
            self._events.append(data)

    def next(self) -> ResponseEvent | None:
        """The next event; None asks for more bytes."""
        return self._events.popleft() if self._events else None

    def eof(self) -> bool:
        """The connection ended; was that the proper end of the response?"""
        if self._head is not None and self._head.until_eof and not self._done:
            self._done = True
            self._events.append(End())
        return self._done

    @property
    def reusable(self) -> bool:
        """May the connection carry another exchange?"""
        head = self._head
        if head is None or head.until_eof or not head.keep_alive:
            return False
        return self._done and not self.surplus

    def _read_heads(self) -> None:
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_LIMIT:
                    raise BadMessageError(502, "response_headers_too_large")
                return
            raw, rest = bytes(self._buffer[: end + 4]), bytes(self._buffer[end + 4 :])
            message, head = self._parse_head(raw)
            self._events.append(head)
            self._buffer = bytearray(rest)
            if head.informational:
                continue
            self._head = head
            if head.bodiless or head.content_length == 0:
                self._done = True
                self.surplus = bool(rest) and head.status != 101
                self._events.append(End())
            elif head.until_eof:
                if rest:
                    self._events.append(rest)
            else:
                self._message = message
                if rest:
                    self._feed_body(rest)

    def _parse_head(self, raw: bytes) -> tuple[_ResponseMessage, ResponseHead]:
        message = _ResponseMessage()
        message.head_request = self._method == "HEAD"
        message.parser = httptools.HttpResponseParser(message)
        try:
            message.parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # 101: what follows belongs to the new protocol
        except httptools.HttpParserError:
            raise message.error or BadMessageError(502, "http1.codec_error") from None
        if len(raw) > HEAD_LIMIT or not message.events:
            raise BadMessageError(502, "http1.codec_error")
        head: ResponseHead = message.events.popleft()
        message.events.clear()
        return message, head

    def _feed_body(self, data: bytes) -> None:
        message = self._message
        assert message is not None
        try:
            message.parser.feed_data(data)
        except httptools.HttpParserError:
            if not (message.complete or message.more):
                raise message.error or BadMessageError(502, "http1.codec_error") from None
            self.surplus = True
        message.flush()
        self._quiet = 0 if message.events else self._quiet + len(data)
        if self._quiet > HEAD_LIMIT:
            raise BadMessageError(502, "response_trailers_too_large")
        for event in message.events:
            self._events.append(event)
            if isinstance(event, End):
                self._done = True
                break
        self.surplus = self.surplus or message.more
        message.events.clear()

    def take_rest(self) -> bytes:
        """After a 101: the bytes behind it."""
        return bytes(self._buffer)
