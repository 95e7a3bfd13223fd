"""How much has happened in the last while: a sliding window of a few slots."""

from __future__ import annotations

from typing import Final

SLOTS: Final = 10
"""The window moves by a tenth of its length at a time."""


class RateWindow:
    """Counts what is noted; times are in seconds, of a clock that never goes back."""

    def __init__(self, interval_s: float) -> None:
        self._slot_s = interval_s / SLOTS
        self._slots = [0] * SLOTS
        self._at = 0
        """Number of the newest slot since the clock began."""

    def note(self, now_s: float) -> None:
        """It has happened once more."""
        self._move(now_s)
        self._slots[self._at % SLOTS] += 1

    def count(self, now_s: float) -> int:
        """How often it has happened in the interval before now."""
        self._move(now_s)
        return sum(self._slots)

    def _move(self, now_s: float) -> None:
        at = int(now_s / self._slot_s)
        for slot in range(max(self._at + 1, at - SLOTS + 1), at + 1):
            self._slots[slot % SLOTS] = 0
        self._at = max(self._at, at)
