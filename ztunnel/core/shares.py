"""How many workers a node has, and which of them serves a pod."""

from __future__ import annotations

import zlib
from math import ceil


def worker_count(wanted: str, cores: int) -> int:
    """Read ``ZTUNNEL_WORKER_THREADS``: a number, ``0`` for every core, or ``50%`` of the cores.

    Raises ValueError.
    """
    number, percent, rest = wanted.strip().partition("%")
    if rest or not number.isascii() or not number.isdigit():
        raise ValueError(f"expected a whole number or a percentage, not {wanted!r}")
    if percent:
        return max(1, ceil(cores * int(number) / 100))
    return int(number) or cores


def worker_of(uid: str, workers: int) -> int:
    """The worker that serves a pod: always the same one, whatever other pods there are."""
    return zlib.crc32(uid.encode()) % workers
