"""HTTP/1.1 off the wire: reading messages piece by piece.

``httptools`` (the parser of Node.js) does the tokenising and is strict about line ends, folding,
lengths and chunks. This file adds what it does not judge: versions, Host, the one permitted
transfer coding, limits, and which response has a body. It also spares the parser what needs none:
plain messages (``plain_head``), and content whose length is known.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

import httptools

from waypoint.core.head_facts import facts_of
from waypoint.core.message import End, Headers, RequestHead
from waypoint.core.message_limits import LIMITS
from waypoint.core.plain_head import AUTHORITY, read_request

HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)
_FRAMING: Final = HOP_BY_HOP | {"content-length", "host", "trailer"}
_KEPT: Final = frozenset(
    ("host", "content-length", "authorization", "cookie", "x-forwarded-for", "x-forwarded-proto")
)
"""A Connection header cannot make us drop these: policy may have looked at them."""
_H2C = ("h2c", "http/2.0", "tls/1.0")


class BadMessageError(Exception):
    """The peer's bytes are not an HTTP/1.1 message that we accept.

    ``status`` is the answer for a client; ``details`` the log's response code details.
    """

    def __init__(self, status: int, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


END: Final = End()
RequestEvent = RequestHead | bytes | End


_KNOWN_NAMES: Final = 1024
_names: dict[bytes, str] = {}


def _name(raw: bytes) -> str:
    """A field's name in lower case; most come again and again."""
    if len(_names) >= _KNOWN_NAMES:
        _names.clear()
    name = _names[raw] = raw.decode("latin-1").lower()
    return name


class Message:
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
        if len(found) >= LIMITS.fields:
            self.fail(431, "http1.too_many_headers")
        known = _names.get(name) or _name(name)
        found.append((known, value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        size = len(self._url) + sum([len(name) + len(value) + 4 for name, value in self._fields])
        if size > LIMITS.head_bytes:
            self.fail(431, "request_headers_too_large")
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


def sort_fields(fields: list[tuple[str, str]], failing: Message, te_status: int) -> _Fields:
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


class _RequestMessage(Message):
    parser: Any
    closing = False

    def head(self, start: str, fields: list[tuple[str, str]]) -> RequestHead:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self.fail(426, "low_version")
        found = sort_fields(fields, self, 501)
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
            facts=facts_of(found.rest.items),
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
        if message.complete or not message.begun:
            data = self._read_plain(data)
            if not data:
                self._quiet = 0
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
        if self._quiet > LIMITS.head_bytes and message.error is None:
            message.error = BadMessageError(431, "request_headers_too_large")

    def _read_plain(self, data: bytes) -> bytes:
        """Take the plain requests that ``data`` begins with and that are there as a whole; what is
        left is for the parser, which stands between two messages."""
        message = self._message
        while (end := data.find(b"\r\n\r\n", 0, LIMITS.head_bytes)) >= 0:
            head = read_request(data[:end])
            if head is None:
                break
            stop = end + 4 + (head.content_length or 0)
            if len(data) < stop:
                break
            message.events.append(head)
            if head.has_body:
                message.events.append(data[end + 4 : stop])
            message.events.append(END)
            message.begun = message.complete = True
            data = data[stop:]
        return data

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
