"""HTTP/1.1 responses off the wire; see ``http1`` for what reads them."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import httptools

from waypoint.core.http1 import END, BadMessageError, Message, sort_fields
from waypoint.core.message import End, Headers
from waypoint.core.message_limits import LIMITS, MAX_INTERIM
from waypoint.core.plain_head import read_response


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


ResponseEvent = ResponseHead | bytes | End


class _ResponseMessage(Message):
    parser: Any
    head_request = False

    def head(self, start: str, fields: list[tuple[str, str]]) -> ResponseHead:
        status = self.parser.get_status_code()
        if not 100 <= status <= 599 or self.parser.get_http_version() not in ("1.0", "1.1"):
            self.fail(502, "http1.codec_error")
        found = sort_fields(fields, self, 502)
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
        self._interim = 0
        self._left: int | None = None  # of content whose length is known
        self._quiet = 0  # bytes since the last event: trailers that do not end
        self.surplus = False
        """Did bytes arrive behind the response? Then the connection is not usable again."""

    def feed(self, data: bytes) -> None:
        """Take bytes in. Raises BadMessageError where they are no response."""
        if self._done:
            self.surplus = self.surplus or bool(data)
        elif self._head is None:
            if self._buffer or not self._read_plain(data):
                self._buffer += data
                self._read_heads()
        elif self._left is not None:
            self._take_content(data, self._left)
        elif self._message is not None:
            self._feed_body(data)
        elif data:
            self._events.append(data)

    def next(self) -> ResponseEvent | None:
        """The next event; None asks for more bytes."""
        return self._events.popleft() if self._events else None

    def take(self) -> list[ResponseEvent]:
        """All events that are there; none asks for more bytes."""
        events, self._events = list(self._events), deque()
        return events

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

    def _read_plain(self, data: bytes) -> bool:
        """Take a plain response whose head ``data`` begins with; False where it is for the
        parser."""
        end = data.find(b"\r\n\r\n", 0, LIMITS.head_bytes)
        if end < 0:
            return False
        found = read_response(data[:end])
        if found is None:
            return False
        status, reason, headers, length = found
        bodiless = self._method == "HEAD" or status in (204, 304)
        if length is None and not bodiless:
            return False  # until the connection ends
        self._head = ResponseHead(status, reason, headers.copy(), True, length, False, bodiless)
        self._events.append(self._head)
        self._take_content(data[end + 4 :], 0 if bodiless or length is None else length)
        return True

    def _take_content(self, data: bytes, left: int) -> None:
        """``left`` bytes of content are still to come."""
        piece = data if len(data) <= left else data[:left]
        if piece:
            self._events.append(piece)
        self._left = left = left - len(piece)
        if not left:
            self._done = True
            self.surplus = len(data) > len(piece)
            self._events.append(END)

    def _read_heads(self) -> None:
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > LIMITS.head_bytes:
                    raise BadMessageError(502, "response_headers_too_large")
                return
            raw, rest = bytes(self._buffer[: end + 4]), bytes(self._buffer[end + 4 :])
            message, head = self._parse_head(raw)
            self._events.append(head)
            self._buffer = bytearray(rest)
            if head.informational:
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    raise BadMessageError(502, "too_many_interim_responses")
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
        if len(raw) > LIMITS.head_bytes or not message.events:
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
        if self._quiet > LIMITS.head_bytes:
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
