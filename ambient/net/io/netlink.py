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
from collections.abc import Callable, Iterator, Sequence
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
_SEQUENCE: Final = struct.Struct("=I")
_SEQUENCE_OFFSET: Final = 8  # in the header
_ERROR: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct nlattr: length, type
_ATTRIBUTE_TYPE: Final = 0x3FFF  # NLA_TYPE_MASK: without the flags for nested and byte order

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
        self.send_encoded([encoded(message) for message in messages])

    def send_encoded(self, messages: Sequence[bytes]) -> None:
        """The same with messages that are ``encoded`` already, perhaps long ago."""
        batch = bytearray()
        positions: dict[int, int] = {}
        awaited = set()
        for position, message in enumerate(messages):
            sequence = next(self._sequence)
            positions[sequence] = position
            _, _, flags, _, _ = _HEADER.unpack_from(message)
            if flags & NLM_F_ACK:
                awaited.add(sequence)
            begin = len(batch)
            batch += message
            _SEQUENCE.pack_into(batch, begin + _SEQUENCE_OFFSET, sequence)
        self._socket.send(batch)
        while awaited:
            for kind, _, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or sequence not in positions:
                    continue
                (error,) = _ERROR.unpack_from(body, _HEADER.size)
                if error:
                    raise NetlinkError(-error, positions[sequence])
                awaited.discard(sequence)

    def dump(
        self, request: Any, answer: type[_M], only: Callable[[bytes], bool] | None = None
    ) -> list[_M]:
        """All messages that answer ``request``, decoded by ``answer``. Raises NetlinkError.

        ``only`` looks at a whole message as it came: decoding is what a dump costs.
        """
        for _ in range(_DUMP_TRIES):
            whole, found = self._dump_once(request)
            if whole:
                return [_decoded(body, answer) for body in found if only is None or only(body)]
        raise OSError("the kernel's tables change faster than they can be read")

    def _dump_once(self, request: Any) -> tuple[bool, list[bytes]]:
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
        mine = next(self._sequence)
        message = bytearray(encoded(request))
        _SEQUENCE.pack_into(message, _SEQUENCE_OFFSET, mine)
        self._socket.send(message)
        found: list[bytes] = []
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
                found.append(body)

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


def encoded(message: Any) -> bytes:
    """A pyroute2 message as bytes, for ``send_encoded``; without a sequence number yet."""
    message["header"]["flags"] |= NLM_F_REQUEST
    message.reset()
    message.encode()
    return bytes(message.data) + bytes(-len(message.data) % 4)


def _decoded(body: bytes, answer: type[_M]) -> _M:
    message: Any = answer(body)  # type: ignore[call-arg] # pyroute2 is untyped
    message.decode()
    return message  # type: ignore[no-any-return]


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Type to value of the attributes that begin at ``offset``, as they came."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _ATTRIBUTE_TYPE] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3  # NLA_ALIGN
    return found
