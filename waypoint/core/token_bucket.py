"""Token buckets that fill evenly (Envoy's), each remembered as one number: when it is full again.

A bucket whose time is in the past is full, which is as good as none: nothing has to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

TOLERANCE: Final = 1e-6
"""Of a token: sums of fractions are not exact."""
KEY_BYTES: Final = 16
"""Length of the key of a slot."""


class Bucket(msgspec.Struct, frozen=True):
    """``tokens`` come back in ``interval_s``, one after the other, up to ``most``."""

    most: int
    tokens: int
    interval_s: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.interval_s

    def left(self, full_at_s: float, now_s: float) -> float:
        """How many tokens are there."""
        return self.most - max(0.0, full_at_s - now_s) * self.rate

    def without(self, full_at_s: float, now_s: float, hits: int) -> float | None:
        """When it is full again once ``hits`` tokens were taken; None where it has too few."""
        if self.left(full_at_s, now_s) < hits - TOLERANCE:
            return None
        return max(full_at_s, now_s) + hits / self.rate

    def wait_s(self, full_at_s: float, now_s: float) -> float:
        """Until there is a whole token; 0 where there is one."""
        return max(0.0, (1 - TOLERANCE - self.left(full_at_s, now_s)) / self.rate)


class Slots(Protocol):
    """Numbers by key, of which one in the past is as good as none."""

    def change(self, key: bytes, step: Callable[[float], float], now_s: float) -> float:
        """Replace a key's number (0.0 where there is none) by what ``step`` makes of it, as one
        act for all who share the slots. Returns the new number."""
        ...


def take(slots: Slots, key: bytes, bucket: Bucket, hits: int, now_s: float) -> tuple[bool, float]:
    """Take tokens; whether there were enough, and when the bucket is full again."""
    enough = False

    def step(full_at_s: float) -> float:
        nonlocal enough
        changed = bucket.without(full_at_s, now_s, hits)
        enough = changed is not None
        return full_at_s if changed is None else changed

    full_at_s = slots.change(key, step, now_s)
    return enough, full_at_s
