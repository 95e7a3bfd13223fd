"""The PROXY protocol (haproxy.org, proxy-protocol.txt): who calls, in front of the bytes of whoever
asked for it: an application tunnel, or ``proxyProtocol`` of a DestinationRule.
"""

from __future__ import annotations

import struct
from typing import Final

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_AND_PROXY: Final = 0x21
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21
TLV_SOURCE_IDENTITY: Final = 0xD0
"""The client's SPIFFE id; Istio's choice from the range for custom use."""


def encode_v1(source: HostPort, destination: HostPort) -> bytes:
    """The same as a line of text, which cannot say who the client is."""
    one, two = source.ip, destination.ip
    if one is None or two is None or one.version != two.version:
        return b"PROXY UNKNOWN\r\n"
    return f"PROXY TCP{one.version} {one} {two} {source.port} {destination.port}\r\n".encode()


def encode(source: HostPort, destination: HostPort, identity: Identity | None) -> bytes:
    """A header of version 2 for TCP. ``source``: the client; ``destination``: what it asked for.

    Where they are of different families the header names no addresses: it could not.
    """
    one, two = source.ip, destination.ip
    if one is None or two is None or one.version != two.version:
        family, addresses = _UNSPECIFIED, b""
    else:
        family = _TCP4 if one.version == 4 else _TCP6
        ports = struct.pack("!HH", source.port, destination.port)
        addresses = one.packed + two.packed + ports
    tlv = b""
    if identity is not None:
        value = str(identity).encode()
        tlv = struct.pack("!BH", TLV_SOURCE_IDENTITY, len(value)) + value
    head = struct.pack("!BBH", _VERSION_AND_PROXY, family, len(addresses) + len(tlv))
    return _SIGNATURE + head + addresses + tlv
