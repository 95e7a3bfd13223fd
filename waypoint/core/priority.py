"""How load spills over from nearer endpoints to farther ones (Envoy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

OVERPROVISIONING: Final = 1.4
"""A priority counts as complete while so many more of its endpoints are healthy than it needs."""
DEFAULT_PANIC_PERCENT: Final = 50


class Count(NamedTuple):
    """The endpoints of a priority."""

    healthy: int
    total: int


class Load(NamedTuple):
    """A priority's part of the traffic in percent; ``panic``: all its endpoints are used."""

    percent: int
    panic: bool


def loads(counts: Sequence[Count], panic_percent: int) -> tuple[Load, ...]:
    """The loads of priorities 0, 1, ...; 0 percent everywhere means that nobody is left."""
    health = [
        min(100, int(100 * OVERPROVISIONING * one.healthy / one.total)) if one.total else 0
        for one in counts
    ]
    normal = min(100, sum(health))
    panic = [
        normal < 100 and one.total > 0 and 100 * one.healthy < panic_percent * one.total
        for one in counts
    ]
    used = [bool(one.total) for one in counts]
    if panic and all(lost for lost, some in zip(panic, used, strict=True) if some) and any(used):
        total = sum(one.total for one in counts)
        return _rounded([100 * one.total // total for one in counts], panic, used)
    if not normal:
        return tuple(Load(0, lost) for lost in panic)
    left, parts = 100, []
    for part in health:
        part = min(left, part * 100 // normal)
        parts.append(part)
        left -= part
    return _rounded(parts, panic, [bool(part) for part in health])


def _rounded(parts: list[int], panic: list[bool], used: list[bool]) -> tuple[Load, ...]:
    """What rounding left over goes to the first priority that is in use."""
    parts[used.index(True)] += 100 - sum(parts)
    return tuple(Load(part, lost) for part, lost in zip(parts, panic, strict=True))


def locality_weight(weight: int, healthy: int, total: int) -> float:
    """A locality's weight, less where fewer endpoints are healthy than it needs."""
    return weight * min(1.0, OVERPROVISIONING * healthy / total) if total else 0.0
