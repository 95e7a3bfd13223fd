"""Counts messages in one direction of a gRPC call (its Length-Prefixed-Message)."""

from __future__ import annotations

from typing import Final

HEAD: Final = 5


class GrpcMessages:
    """``count`` messages have begun."""

    __slots__ = ("_head", "_left", "count")

    def __init__(self) -> None:
        self.count = 0
        self._head = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        at, size = 0, len(data)
        while not (self._left or self._head) and size - at >= HEAD:
            # as most come: a head that is there as a whole
            self.count += 1
            at += HEAD + int.from_bytes(data[at + 1 : at + HEAD], "big")
            self._left = max(0, at - size)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            step = min(HEAD - len(self._head), size - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == HEAD:
                self.count += 1
                self._left = int.from_bytes(self._head[1:], "big")
                self._head.clear()
