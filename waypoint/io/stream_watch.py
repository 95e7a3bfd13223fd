"""Watches over one exchange whose client must not take as long as it likes."""

from __future__ import annotations

import math

from waypoint.core.message import End, Reply
from waypoint.core.stream_limits import (
    REQUEST_TIMEOUT,
    StreamLimits,
    duration_timeout,
    stream_timeout,
)
from waypoint.io.downstream import Body
from waypoint.io.fiber import Limit, now_s


class StreamWatch:
    """Moves the deadline of ``limit``, the scope of the exchange, with what happens in it."""

    def __init__(self, limit: Limit, limits: StreamLimits, body: Body) -> None:
        at_s = self._by_s = now_s()
        self._limit = limit
        self._body = body
        self._idle_s = limits.idle_s
        self._whole_by_s = at_s + limits.whole_s
        self._request_by_s = math.inf if body.complete else at_s + limits.request_s
        if not body.complete:
            body.taps.append(self._arrived)
        self.beat()

    def beat(self) -> None:
        """Something has moved."""
        self._by_s = min(self._whole_by_s, self._request_by_s, now_s() + self._idle_s)
        self._limit.move(self._by_s)

    def _arrived(self, event: bytes | End) -> None:
        if isinstance(event, End):
            self._request_by_s = math.inf
        self.beat()

    def stop(self) -> None:
        """What follows is another protocol, which may be silent."""
        self._idle_s = math.inf
        self.beat()

    def overdue(self) -> Reply | None:
        """The answer where the deadline has passed."""
        at_s = now_s()
        if at_s < self._by_s:
            return None
        whole = self._body.complete
        if at_s >= self._whole_by_s:
            return duration_timeout(whole=whole)
        return REQUEST_TIMEOUT if at_s >= self._request_by_s else stream_timeout(whole=whole)
