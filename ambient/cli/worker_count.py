"""How many workers a program has."""

from __future__ import annotations

import os
from math import ceil
from typing import Final

from ambient.cli.cpu_limit import cpu_limit

AUTO: Final = "auto"
"""As many as the container's CPU limit; one where there is none."""


def workers_here(wanted: str) -> int:
    """``worker_count`` for the machine and the container that we run in. Raises ValueError."""
    return worker_count(wanted, len(os.sched_getaffinity(0)), cpu_limit())


def worker_count(wanted: str, cores: int, limit: float | None = None) -> int:
    """Read how many are wanted: a number, ``0`` for every core, ``50%`` of the cores, or ``auto``.

    ``limit``: CPUs that the container may use; cores beyond it do not count. Raises ValueError.
    """
    usable = cores if limit is None else max(1, min(cores, ceil(limit)))
    if wanted.strip() == AUTO:
        return 1 if limit is None else usable
    number, percent, rest = wanted.strip().partition("%")
    if rest or not number.isascii() or not number.isdigit():
        raise ValueError(f"expected a whole number, a percentage or {AUTO}, not {wanted!r}")
    if percent:
        return max(1, ceil(usable * int(number) / 100))
    return int(number) or usable
