"""How many workers a program has."""

from __future__ import annotations

from math import ceil


def worker_count(wanted: str, cores: int) -> int:
    """Read how many are wanted: a number, ``0`` for every core, or ``50%`` of the cores.

    Raises ValueError.
    """
    number, percent, rest = wanted.strip().partition("%")
    if rest or not number.isascii() or not number.isdigit():
        raise ValueError(f"expected a whole number or a percentage, not {wanted!r}")
    if percent:
        return max(1, ceil(cores * int(number) / 100))
    return int(number) or cores
