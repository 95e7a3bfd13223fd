"""How many pods of which generation a rolling update may have now: arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Generation(NamedTuple):
    """One ReplicaSet of a Deployment, in numbers."""

    wanted: int
    available: int


class Limits(NamedTuple):
    """The replicas wanted at the end, and the room for the way there."""

    replicas: int
    surge: int
    unavailable: int


def limits(replicas: int, rolling: dict[str, Any]) -> Limits:
    """Resolve maxSurge (rounded up) and maxUnavailable (rounded down); never both zero."""
    surge = _resolve(rolling.get("maxSurge", "25%"), replicas, round_up=True)
    unavailable = _resolve(rolling.get("maxUnavailable", "25%"), replicas, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, unavailable)


def _resolve(value: int | str, replicas: int, *, round_up: bool) -> int:
    if isinstance(value, int):
        return value
    share = float(value.rstrip("%")) * replicas / 100
    return math.ceil(share) if round_up else math.floor(share)


def next_new(new: Generation, old: Sequence[Generation], limit: Limits) -> int:
    """Replicas that the newest generation may have now."""
    if new.wanted >= limit.replicas:
        return limit.replicas
    total = new.wanted + sum(generation.wanted for generation in old)
    room = limit.replicas + limit.surge - total
    return min(limit.replicas, new.wanted + max(room, 0))


def next_old(new: Generation, old: Sequence[Generation], limit: Limits) -> list[int]:
    """Replicas that the older generations may keep now, in the given order.

    Pods that serve nobody go first; of the others only so many that enough stay available.
    """
    kept = [generation.wanted for generation in old]
    total = new.wanted + sum(kept)
    at_least = limit.replicas - limit.unavailable
    spare = total - at_least - max(new.wanted - new.available, 0)
    for i, generation in enumerate(old):
        useless = min(max(generation.wanted - generation.available, 0), max(spare, 0))
        kept[i] -= useless
        spare -= useless
    available = new.available + sum(
        min(kept[i], generation.available) for i, generation in enumerate(old)
    )
    spare = available - at_least
    for i in range(len(old)):
        gone = min(kept[i], max(spare, 0))
        kept[i] -= gone
        spare -= gone
    return kept
