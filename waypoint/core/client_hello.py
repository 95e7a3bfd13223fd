"""The server name that a TLS client asks for, from its first bytes (RFC 8446 and RFC 6066)."""

from __future__ import annotations

from typing import Final

LARGEST: Final = 64 * 1024
"""Bytes of a ClientHello that are looked at."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class _ShortError(Exception):
    """A field is longer than what is there."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise _ShortError
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes behind their length, which has ``size`` bytes."""
        return self.take(self.number(size))

    @property
    def rest(self) -> int:
        return len(self._data) - self._at


def server_name(data: bytes) -> str | None:
    """The name, in lower case; empty where there is none or this is not TLS; None: more bytes."""
    message = bytearray()
    reader = _Reader(data)
    try:
        while True:
            if reader.rest and data[len(data) - reader.rest] != _HANDSHAKE:
                return ""
            reader.take(1)
            if reader.number(1) != 3:
                return ""
            reader.take(1)
            message += reader.vector(2)
            if message and message[0] != _CLIENT_HELLO:
                return ""
            size = int.from_bytes(message[1:4], "big")
            if size > LARGEST:
                return ""
            if len(message) >= 4 + size:
                return _name_in(bytes(message[4 : 4 + size]))
    except _ShortError:
        return None if len(data) < LARGEST else ""


def _name_in(hello: bytes) -> str:
    reader = _Reader(hello)
    try:
        reader.take(2 + 32)  # version and random
        reader.vector(1)  # session
        reader.vector(2)  # cipher suites
        reader.vector(1)  # compression
        extensions = _Reader(reader.vector(2))
        while extensions.rest:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind != _SERVER_NAME:
                continue
            names = _Reader(_Reader(content).vector(2))
            while names.rest:
                kind, name = names.number(1), names.vector(2)
                if kind == _HOST_NAME:
                    return name.decode("ascii").lower()
    except (_ShortError, UnicodeDecodeError):
        pass
    return ""
