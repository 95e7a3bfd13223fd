"""A blocking netlink socket: a batch and its acknowledgements, or a dump.

The bytes are made and read by pyroute2's message classes; its sockets are not used because each
brings an event loop of its own, and because its nftables batches do not report errors. The socket
belongs to the namespace in which it was made. The kernel answers while it is being asked, so
nothing here waits for anybody; the time-out only bounds a kernel that is wedged.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

NLM_F_REQUEST: Final = 0x1  # linux/netlink.h
NLM_F_ACK: Final = 0x4
NLM_F_REPLACE: Final = 0x100
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
_NLM_F_DUMP_INTR: Final = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _CAP_ACK = 270, 10

_TIMEOUT_S: Final = 5.0
_BUFFER_BYTES: Final = 1 << 18
_BATCH_BYTES: Final = 1 << 20
_DUMP_TRIES: Final = 10
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ERROR: Final = struct.Struct("=i")

_M = TypeVar("_M")


class NetlinkError(OSError):
    """The kernel refused a message; ``position`` counts from 0 in the batch."""

    def __init__(self, number: int, position: int) -> None:
        super().__init__(number, os.strerror(number))
        self.position = position


class Netlink:
    """One socket of a protocol such as NETLINK_NETFILTER, in the calling thread's namespace."""

    def __init__(self, protocol: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        # A batch is one packet; the kernel takes as much of the wish as net.core.wmem_max allows.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BATCH_BYTES)
        self._sequence = itertools.count(1)

    def send(self, messages: Sequence[Any]) -> None:
        """Send pyroute2 messages as one batch and wait until each that asks for it is acknowledged.

        Raises NetlinkError for the first that the kernel refuses, or for the whole batch (position
        of its first message).
        """
        batch = bytearray()
        positions: dict[int, int] = {}
        awaited = set()
        for position, message in enumerate(messages):
            sequence = next(self._sequence)
            positions[sequence] = position
            if message["header"]["flags"] & NLM_F_ACK:
                awaited.add(sequence)
            batch += _encoded(message, sequence)
        self._socket.send(batch)
        while awaited:
            for kind, _, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or sequence not in positions:
                    continue
                (error,) = _ERROR.unpack_from(body, _HEADER.size)
                if error:
                    raise NetlinkError(-error, positions[sequence])
                awaited.discard(sequence)

    def dump(self, request: Any, answer: type[_M]) -> list[_M]:
        """All messages that answer ``request``, decoded by ``answer``. Raises NetlinkError."""
        for _ in range(_DUMP_TRIES):
            whole, found = self._dump_once(request, answer)
            if whole:
                return found
        raise OSError("the kernel's tables change faster than they can be read")

    def _dump_once(self, request: Any, answer: type[_M]) -> tuple[bool, list[_M]]:
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
        mine = next(self._sequence)
        self._socket.send(_encoded(request, mine))
        found: list[_M] = []
        whole = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != mine:
                    continue
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return whole, found
                if kind == _NLMSG_ERROR:
                    (error,) = _ERROR.unpack_from(body, _HEADER.size)
                    raise NetlinkError(-error, 0)
                message: Any = answer(body)  # type: ignore[call-arg] # pyroute2 is untyped
                message.decode()
                found.append(message)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one packet: type, flags, sequence number, whole bytes."""
        data = self._socket.recv(_BUFFER_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                raise OSError("the kernel sent a message without a length")
            yield kind, flags, sequence, data[offset : offset + length]
            offset += (length + 3) & ~3  # NLMSG_ALIGN

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _encoded(message: Any, sequence: int) -> bytes:
    message["header"]["sequence_number"] = sequence
    message["header"]["flags"] |= NLM_F_REQUEST
    message.reset()
    message.encode()
    return bytes(message.data) + bytes(-len(message.data) % 4)
