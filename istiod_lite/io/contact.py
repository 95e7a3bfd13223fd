"""Whether the API server answers; while it does not, what we know grows stale, and we say so."""

from __future__ import annotations

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

log = get_logger("kube")


class Contact:
    """Collects what the watches of all kinds see."""

    def __init__(self) -> None:
        self._lost: dict[str, float] = {}

    def report(self, kind: str, answers: bool) -> None:
        """One watch has (no) contact."""
        if answers:
            since = min(self._lost.values(), default=0.0)
            if self._lost.pop(kind, None) is not None and not self._lost:
                gone_s = round(trio.current_time() - since, 1)
                log.info(Event.API_SERVER_BACK, away_s=gone_s)
        elif kind not in self._lost:
            if not self._lost:
                log.warning(
                    Event.API_SERVER_LOST,
                    hint="proxies keep what they have and new ones get the last state; "
                    "changes and certificates wait until it answers",
                )
            self._lost[kind] = trio.current_time()

    def stale_s(self) -> float:
        """How long the first of them has been without contact; 0 while all have it."""
        return trio.current_time() - min(self._lost.values()) if self._lost else 0.0
