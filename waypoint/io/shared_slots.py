"""Token buckets that all workers of a waypoint share: a table in shared memory.

Only the number when a bucket is full again is kept (``waypoint/core/token_bucket.py``), so that a
slot whose time is over is free, and nothing is ever cleaned up.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from struct import Struct
from typing import Final

from waypoint.core.token_bucket import KEY_BYTES

SLOTS: Final = 65_536
"""Buckets that are not full, at once; memory is taken as they are used."""
WINDOW: Final = 16
"""A key is in one of so many slots; where all are taken, the one that is full first gives way."""
_SLOT: Final = Struct(f"{KEY_BYTES}sd")


def create() -> int:
    """The descriptor of a new table; workers inherit it. It is closed as any other."""
    fd = os.memfd_create("waypoint-buckets", 0)
    os.ftruncate(fd, _SLOT.size * (SLOTS + WINDOW))
    return fd


class SharedSlots:
    """``fd`` is a table of ``create``, for which workers have to ask each other; without it the
    slots are this process's own."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        size = _SLOT.size * (SLOTS + WINDOW)
        self._table = mmap.mmap(-1 if fd is None else fd, size)

    def change(self, key: bytes, step: Callable[[float], float], now_s: float) -> float:
        """As ``waypoint.core.token_bucket.Slots``; ``now_s`` is of ``time.monotonic``, which is
        the same for all processes."""
        start = int.from_bytes(key[:4], "big") % SLOTS * _SLOT.size
        if self._fd is None:
            return self._change(start, key, step, now_s)
        # Of this process, not of the descriptor: a worker that dies lets go. The window has to be
        # ours as a whole, since two keys could take the same free slot.
        fcntl.lockf(self._fd, fcntl.LOCK_EX, WINDOW * _SLOT.size, start)
        try:
            return self._change(start, key, step, now_s)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, WINDOW * _SLOT.size, start)

    def _change(
        self, start: int, key: bytes, step: Callable[[float], float], now_s: float
    ) -> float:
        table, size = self._table, _SLOT.size
        free, free_at_s = start, float("inf")
        for at in range(start, start + WINDOW * size, size):
            name, full_at_s = _SLOT.unpack_from(table, at)
            if name == key:
                changed = step(full_at_s)
                _SLOT.pack_into(table, at, key, changed)
                return changed
            if full_at_s < free_at_s:
                free, free_at_s = at, full_at_s
        changed = step(0.0)
        if changed > now_s:
            _SLOT.pack_into(table, free, key, changed)
        return changed
