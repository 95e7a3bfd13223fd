"""The server's side of SOCKS 5 (RFC 1928): CONNECT without authentication, nothing else.

The caller reads exactly ``needs`` bytes, feeds them and sends what comes back, until there is a
``target``. Reading no byte more leaves the application's own first bytes on the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from ambient.api.address import HostPort, canonical, parse_ip

VERSION: Final = 5
_NO_AUTHENTICATION, _NO_ACCEPTABLE_METHOD = 0x00, 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}
_PORT_BYTES: Final = 2


class Reply(IntEnum):
    """Answers to a request (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class SocksError(Exception):
    """The client said something that we do not do; ``answer`` is what to tell it."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


def reply(code: Reply) -> bytes:
    """The answer to a request. The address that it has room for interests no client of CONNECT."""
    return bytes((VERSION, code, 0, _IPV4)) + bytes(4 + _PORT_BYTES)


class Handshake:
    """One connection up to its request."""

    def __init__(self) -> None:
        self.needs = 2
        """How many bytes ``feed`` wants next; 0 when there is a target."""
        self.target: HostPort | None = None
        """What the client asks for: an address, or a lower-case name."""
        self._next: Callable[[bytes], bytes] = self._greeting
        self._kind = 0

    def feed(self, data: bytes) -> bytes:
        """Take ``needs`` bytes; returns what to send. Raises SocksError."""
        if len(data) != self.needs or not data:
            raise ValueError(f"{len(data)} bytes where {self.needs} are needed")
        return self._next(data)

    def _greeting(self, data: bytes) -> bytes:
        version, methods = data
        if version != VERSION:
            raise SocksError(f"SOCKS version {version} instead of 5")
        if not methods:
            raise SocksError("no authentication method", _method(_NO_ACCEPTABLE_METHOD))
        return self._expect(methods, self._methods)

    def _methods(self, data: bytes) -> bytes:
        if _NO_AUTHENTICATION not in data:
            reason = "the client wants to authenticate, and there is nothing to authenticate with"
            raise SocksError(reason, _method(_NO_ACCEPTABLE_METHOD))
        self._expect(4, self._request)
        return _method(_NO_AUTHENTICATION)

    def _request(self, data: bytes) -> bytes:
        version, command, _, self._kind = data
        if version != VERSION:
            raise SocksError(f"SOCKS version {version} instead of 5", reply(Reply.FAILED))
        if command != _CONNECT:
            raise SocksError(
                f"command {command} instead of CONNECT", reply(Reply.COMMAND_NOT_SUPPORTED)
            )
        if self._kind == _NAME:
            return self._expect(1, self._name_length)
        size = _ADDRESS_BYTES.get(self._kind)
        if size is None:
            reason = f"unknown kind of address {self._kind}"
            raise SocksError(reason, reply(Reply.ADDRESS_NOT_SUPPORTED))
        return self._expect(size + _PORT_BYTES, self._address)

    def _name_length(self, data: bytes) -> bytes:
        return self._expect(data[0] + _PORT_BYTES, self._name)

    def _name(self, data: bytes) -> bytes:
        raw = data[:-_PORT_BYTES]
        if not raw or not all(0x21 <= byte <= 0x7E for byte in raw):
            raise SocksError("a name that cannot be one", reply(Reply.FAILED))
        text = raw.decode("ascii").lower()
        ip = parse_ip(text)  # clients may send an address where a name is meant
        return self._finish(str(ip) if ip is not None else text.rstrip("."), data)

    def _address(self, data: bytes) -> bytes:
        raw = data[:-_PORT_BYTES]
        ip = IPv4Address(raw) if self._kind == _IPV4 else canonical(IPv6Address(raw))
        return self._finish(str(ip), data)

    def _finish(self, host: str, data: bytes) -> bytes:
        port = int.from_bytes(data[-_PORT_BYTES:], "big")
        if not port or not host:
            raise SocksError("no port or no host", reply(Reply.FAILED))
        self.target = HostPort(host, port)
        self.needs = 0
        return b""

    def _expect(self, size: int, then: Callable[[bytes], bytes]) -> bytes:
        self.needs, self._next = size, then
        return b""


def _method(number: int) -> bytes:
    return bytes((VERSION, number))
