"""The kernel's list of sockets in the calling thread's network namespace (netlink SOCK_DIAG).

Two fixed structures are all there is to it, so they are packed here: pyroute2 would add 9 MB to
every node tunnel, which needs nothing else of it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

# Bits of ``states``: one bit per TCP state of net/tcp_states.h.
ESTABLISHED: Final = 1 << 1
SYN_RECEIVED: Final = 1 << 3
TIME_WAIT: Final = 1 << 6
CLOSED: Final = 1 << 7
"""UDP sockets that are not connected have this state too."""
LISTENING: Final = 1 << 10
ALL: Final = 0xFFF

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_DUMP_REQUEST: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_INET_DIAG_MARK: Final = 15
_TIMEOUT_S: Final = 5.0
_BUFFER_BYTES: Final = 1 << 16

_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, -, states
_FOUND: Final = struct.Struct(">BBxxHH16s16s32x")  # struct inet_diag_msg; ports in network order
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr: length, type


class FoundSocket(NamedTuple):
    """One socket; a wildcard address is ``0.0.0.0`` or ``::``, and a mapped one stays mapped."""

    family: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    mark: int
    """0 where it has none, or where the caller may not see it (needs NET_ADMIN)."""


def sockets(states: int, protocol: int = socket.IPPROTO_TCP) -> list[FoundSocket]:
    """Sockets of both families in these states.

    Raises OSError; a kernel without CONFIG_INET_DIAG has no answer.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        found: list[FoundSocket] = []
        for number, family in enumerate((socket.AF_INET, socket.AF_INET6), 1):
            body = _REQUEST.pack(family, protocol, 0, states)
            length = _HEADER.size + len(body)
            header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _DUMP_REQUEST, number, 0)
            netlink.send(header + body)
            found += _answers(netlink, number)
        return found


def _answers(netlink: socket.socket, number: int) -> Iterator[FoundSocket]:
    while True:
        data = netlink.recv(_BUFFER_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError("the kernel sent a message without a length")
            body = data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3  # NLMSG_ALIGN
            if sequence != number:
                continue
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                error = -struct.unpack_from("=i", body)[0]
                raise OSError(error, "the kernel does not list sockets")
            yield _read(body)


def _read(body: bytes) -> FoundSocket:
    family, _, source_port, destination_port, source, destination = _FOUND.unpack_from(body)
    size = 4 if family == socket.AF_INET else 16
    near, far = (socket.inet_ntop(family, raw[:size]) for raw in (source, destination))
    return FoundSocket(family, near, source_port, far, destination_port, _mark(body))


def _mark(body: bytes) -> int:
    """Of the attributes behind the fixed part, the one that we look for."""
    offset = 72  # sizeof(struct inet_diag_msg)
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind == _INET_DIAG_MARK and length >= 8:
            return int(struct.unpack_from("=I", body, offset + 4)[0])
        offset += (length + 3) & ~3
    return 0
