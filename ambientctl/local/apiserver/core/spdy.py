"""The server's side of SPDY/3.1, as far as Kubernetes' streams use it; sans-IO.

kubectl speaks it for ``port-forward`` (since 1.31 inside a WebSocket) and, up to 1.30, for ``exec``
and ``attach``. Frames: https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/. Flow
control is left out, as in the library of all Kubernetes clients (moby/spdystream): the transport's
own holds senders back.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

VERSION: Final = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = (
    1, 2, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
FIN: Final = 0x01
CANCEL: Final = 5
"""Status of RST_STREAM: the stream is not wanted any more."""
MAX_FRAME_BYTES: Final = 1 << 20
"""Clients send 32 KB at a time; the format allows 16 MB."""
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_STREAMS: Final = 1024
"""Open at once; two for each forwarded connection."""
_HEAD: Final = struct.Struct("!II")
_CONTROL: Final = 1 << 31
_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url "
    "public set-cookie keep-alive origin"
)
_REST: Final = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    b"401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    b"503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, "
    b"Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    b"application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    b"charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


DICTIONARY: Final = (
    b"".join(_counted(word.replace("_", " ").encode()) for word in _WORDS.split()) + _REST
)
"""What header compression starts with (the draft, section 2.6.10.1)."""
assert len(DICTIONARY) == 1423


class SpdyError(Exception):
    """The peer breaks the protocol; the connection is of no use any more."""


class Opened(NamedTuple):
    """The client has opened a stream; ``fin``: it will send nothing on it."""

    stream: int
    headers: Mapping[str, str]
    fin: bool


class Data(NamedTuple):
    """Bytes of a stream; ``fin``: the last ones."""

    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """The client has given a stream up."""

    stream: int


Event = Opened | Data | Reset


class Spdy:
    """One connection. What ``receive`` wants answered is in ``outgoing``, which the caller empties.

    ``receive`` raises SpdyError.
    """

    def __init__(self) -> None:
        self.outgoing = bytearray()
        self.streams: set[int] = set()
        """Those that the client has opened and neither side has reset or forgotten."""
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the client, however they were cut."""
        self._buffer += data
        return list(self._events())

    def accept(self, stream: int) -> None:
        """Confirm a stream (SYN_REPLY without headers)."""
        block = self._deflate.compress(bytes(4)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._control(SYN_REPLY, stream.to_bytes(4, "big") + block)

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Bytes for the client; nothing for a stream that is gone."""
        if stream not in self.streams:
            return
        first = data[:MAX_FRAME_BYTES]
        rest = data[MAX_FRAME_BYTES:]
        flags = FIN if fin and not rest else 0
        self.outgoing += _HEAD.pack(stream, flags << 24 | len(first)) + first
        if rest:
            self.send(stream, rest, fin=fin)

    def reset(self, stream: int) -> None:
        """Give a stream up."""
        if stream in self.streams:
            self.streams.discard(stream)
            self._control(RST_STREAM, struct.pack("!II", stream, CANCEL))

    def forget(self, stream: int) -> None:
        """Both sides have said everything on it."""
        self.streams.discard(stream)

    def _control(self, kind: int, payload: bytes, flags: int = 0) -> None:
        head = _HEAD.pack(_CONTROL | VERSION << 16 | kind, flags << 24 | len(payload))
        self.outgoing += head + payload

    def _events(self) -> Iterator[Event]:
        while len(self._buffer) >= _HEAD.size:
            first, second = _HEAD.unpack_from(self._buffer)
            length = second & 0xFFFFFF
            if length > MAX_FRAME_BYTES:
                raise SpdyError(f"a frame of {length} bytes")
            if len(self._buffer) < _HEAD.size + length:
                return
            payload = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            flags = second >> 24
            if first & _CONTROL:
                yield from self._control_frame(first, flags, payload)
            elif first in self.streams:
                yield Data(first, payload, bool(flags & FIN))

    def _control_frame(self, first: int, flags: int, payload: bytes) -> Iterator[Event]:
        if (first >> 16) & 0x7FFF != VERSION:
            raise SpdyError(f"version {(first >> 16) & 0x7FFF}")
        match first & 0xFFFF:
            case 1:
                yield self._opened(payload, flags)
            case 3:
                stream = _number(payload)
                if stream in self.streams:
                    self.streams.discard(stream)
                    yield Reset(stream)
            case 6:
                if _number(payload) % 2:  # the client's own; an even one answers one of ours
                    self._control(PING, payload[:4])
            case 8:
                self._headers(payload[4:])  # keeps the compression in step
            case _:
                return  # SETTINGS, GOAWAY, WINDOW_UPDATE and what the draft does not know

    def _opened(self, payload: bytes, flags: int) -> Opened:
        stream = _number(payload) & ~_CONTROL
        if stream % 2 == 0 or stream in self.streams:
            raise SpdyError(f"stream {stream} cannot be opened")
        if len(self.streams) >= MAX_STREAMS:
            raise SpdyError("too many streams")
        headers = self._headers(payload[10:])
        self.streams.add(stream)
        return Opened(stream, headers, bool(flags & FIN))

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADER_BYTES)
        except zlib.error as error:
            raise SpdyError(f"headers: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError("headers are too long")
        fields = iter(_read_counted(plain))
        return {name.lower(): value for name, value in zip(fields, fields, strict=False)}


def _number(payload: bytes) -> int:
    if len(payload) < 4:
        raise SpdyError("a frame that is too short")
    return int.from_bytes(payload[:4], "big")


def _read_counted(plain: bytes) -> list[str]:
    """Names and values in turn, behind their number."""
    if len(plain) < 4:
        raise SpdyError("headers without a number")
    number, at = int.from_bytes(plain[:4], "big"), 4
    found: list[str] = []
    while len(found) < 2 * number:
        end = at + 4 + int.from_bytes(plain[at : at + 4], "big")
        if at + 4 > len(plain) or end > len(plain):
            raise SpdyError("headers that are cut off")
        found.append(plain[at + 4 : end].decode("latin-1"))
        at = end
    return found
