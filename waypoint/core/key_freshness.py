"""When the keys of a token issuer are fetched again."""

from __future__ import annotations

import math
from typing import Final

from waypoint.core.json_web_token import KeySet

FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0
"""After failures: doubled each time."""
ROTATION_S: Final = 5.0
"""A token with an unknown key asks for newer keys at most so often, whoever sends such tokens."""


class KeyFreshness:
    """The keys of one source and their age. Old keys serve on while newer ones cannot be had."""

    def __init__(self, refresh_s: float) -> None:
        self._refresh_s = refresh_s
        self.keys: KeySet | None = None
        self.error = ""
        self.fetched_s = -math.inf
        self.tried_s = -math.inf
        self.failures = 0

    @property
    def due_s(self) -> float:
        """When to fetch."""
        if self.failures:
            wait_s = min(FIRST_RETRY_S * float(2 ** (self.failures - 1)), LONGEST_RETRY_S)
            return self.tried_s + wait_s
        return self.fetched_s + self._refresh_s

    def may_rotate(self, now_s: float) -> bool:
        """May a token ask for keys that are newer than these?"""
        return now_s >= self.tried_s + ROTATION_S

    def fetched(self, keys: KeySet, now_s: float) -> None:
        """An answer; one without usable keys is a failure."""
        if not keys.keys:
            self.failed(keys.error, now_s)
            return
        self.keys, self.error, self.failures = keys, "", 0
        self.fetched_s = self.tried_s = now_s

    def failed(self, error: str, now_s: float) -> None:
        """No answer."""
        self.error, self.tried_s = error, now_s
        self.failures = min(self.failures + 1, 30)
