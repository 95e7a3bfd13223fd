"""The kernel's connection table: where redirected UDP flows wanted to go, and what to forget.

The kernel answers SO_ORIGINAL_DST for TCP only; for UDP its connection table has to be asked, by
the address pair of the reply. The messages are made by hand, since one is made for every query
that is forwarded; layouts from linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ambient.api.address import HostPort
from ambient.net.io import net_settings
from ambient.net.io.netns import Netns

_NETLINK_NETFILTER: Final = 12
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | message
_ERROR, _DONE = 2, 3
_VERSION: Final = 1
"""Of struct nfgenmsg; with 0 a deletion would not be limited to an IP version."""
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF

_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE, _DESTINATION = {2: 1, 10: 3}, {2: 2, 10: 4}  # by address family
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_UDP: Final = bytes([17])

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_FAMILY: Final = struct.Struct("!BBH")  # address family, version, resource
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_PORT: Final = struct.Struct("!H")
_ANSWER_BYTES: Final = 1 << 16

Attributes = dict[int, bytes]


class UdpFlows:
    """The flows of one namespace. Without ``nf_conntrack_netlink`` in the kernel it knows none."""

    def __init__(self, netns: Netns) -> None:
        self._sequence = itertools.count(1)
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._socket = netns.run(_open)

    def original_destination(self, client: HostPort, reached: HostPort) -> HostPort | None:
        """Where ``client`` sent what came out at ``reached``; None where nothing is known."""
        family = _family(client.host)
        reply = _tuple(_TUPLE_REPLY, family, reached, client)
        with suppress(OSError, KeyError, struct.error):
            for flow in self._ask(_GET, 0, family, reply):
                return _destination(_attributes(flow), family)
        return None

    def forget(self, port: int) -> int:
        """Drop every UDP flow that was redirected to ``port`` here; returns how many.

        A client that keeps its socket would go on reaching a port where nobody listens.
        """
        count = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError, KeyError, struct.error):
                for flow in self._ask(_GET, _DUMP, family, b""):
                    original = _redirected(_attributes(flow), port)
                    if original is not None:
                        self._ask(_DELETE, _ACK, family, original)
                        count += 1
        return count

    def forget_all(self, family: int) -> None:
        """Drop every flow of an IP version, of whatever protocol. Raises OSError."""
        self._ask(_DELETE, _ACK, family, b"")

    def knows(self, itself: HostPort) -> bool:
        """Whether there is a flow of a socket that has sent to itself. Raises OSError."""
        family = _family(itself.host)
        return bool(self._ask(_GET, 0, family, _tuple(_TUPLE_ORIGINAL, family, itself, itself)))

    def close(self) -> None:
        """Harmless when repeated."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, kind: int, flags: int, family: int, attributes: bytes) -> list[bytes]:
        """The attributes of each flow that the kernel answers with. Raises OSError.

        The kernel has answered when it has taken the question, so this never waits.
        """
        if self._socket is None:
            return []
        mine = next(self._sequence)
        self._socket.send(_message(kind, flags, mine, family, attributes))
        found: list[bytes] = []
        while True:
            for answer, sequence, body in _messages(self._socket.recv(_ANSWER_BYTES)):
                if sequence != mine:
                    continue  # to a question that was given up
                if answer in (_ERROR, _DONE):
                    return found
                found.append(body[_FAMILY.size :])
                if not flags:
                    return found


def forget_unwatched(netns: Netns) -> bool:
    """Drop what the table knows from a time when packets were looked at; whether there was any.

    Entries outlive the last rule that needed them. Nobody sees their connections end then, so they
    would be taken for open for days, and a new connection with the same addresses for an old one,
    whose first packet is not redirected. A table that somebody else keeps in use is left alone: it
    has seen everything, and a firewall may depend on it.
    """
    return netns.run(_forget_unwatched_here)


def _forget_unwatched_here() -> bool:
    try:
        if net_settings.read_here("netfilter/nf_conntrack_count") == b"0":
            return False
    except OSError:
        return False  # the kernel has no table
    known = False
    with suppress(OSError), Netns.current() as here:
        flows = UdpFlows(here)
        try:
            for family, loopback in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                if not _is_watched(flows, family, loopback):
                    flows.forget_all(family)
                    known = True
        finally:
            flows.close()
    return known


def _is_watched(flows: UdpFlows, family: int, loopback: str) -> bool:
    """Whether packets are looked at now: a datagram leaves a trace then."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((loopback, 0))
        port = probe.getsockname()[1]
        probe.sendto(b"", (loopback, port))
        return flows.knows(HostPort(loopback, port))
    return False  # without that version of IP, or without a way to itself, there is nothing to see


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    sock.setblocking(False)
    return sock


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _message(kind: int, flags: int, sequence: int, family: int, attributes: bytes) -> bytes:
    body = _FAMILY.pack(family, _VERSION, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, sequence, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def _tuple(which: int, family: int, source: HostPort, destination: HostPort) -> bytes:
    addresses = _attribute(_SOURCE[family], socket.inet_pton(family, source.host))
    addresses += _attribute(_DESTINATION[family], socket.inet_pton(family, destination.host))
    protocol = _attribute(_NUMBER, _UDP)
    protocol += _attribute(_SOURCE_PORT, _PORT.pack(source.port))
    protocol += _attribute(_DESTINATION_PORT, _PORT.pack(destination.port))
    inner = _attribute(_TUPLE_IP | _NESTED, addresses)
    inner += _attribute(_TUPLE_PROTOCOL | _NESTED, protocol)
    return _attribute(which | _NESTED, inner)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each message of one packet."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Attributes:
    found: Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _destination(flow: Attributes, family: int) -> HostPort:
    original = _attributes(flow[_TUPLE_ORIGINAL])
    packed = _attributes(original[_TUPLE_IP])[_DESTINATION[family]]
    (port,) = _PORT.unpack(_attributes(original[_TUPLE_PROTOCOL])[_DESTINATION_PORT])
    return HostPort(socket.inet_ntop(family, packed), port)


def _redirected(flow: Attributes, port: int) -> bytes | None:
    """The original tuple, as an attribute, of a UDP flow that was redirected to ``port``."""
    reply = _attributes(_attributes(flow[_TUPLE_REPLY])[_TUPLE_PROTOCOL])
    original = _attributes(_attributes(flow[_TUPLE_ORIGINAL])[_TUPLE_PROTOCOL])
    if reply[_NUMBER] != _UDP or reply[_SOURCE_PORT] != _PORT.pack(port):
        return None
    if original[_DESTINATION_PORT] == reply[_SOURCE_PORT]:
        return None  # sent here in the first place
    return _attribute(_TUPLE_ORIGINAL | _NESTED, flow[_TUPLE_ORIGINAL])
