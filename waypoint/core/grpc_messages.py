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
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            step = min(HEAD - len(self._head), len(data) - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == HEAD:
                self.count += 1
                self._left = int.from_bytes(self._head[1:], "big")
                self._head.clear()
