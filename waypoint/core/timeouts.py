"""How long a request may take: what the route says, and what the client asks for."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from waypoint.core.grpc import is_grpc, timeout_s, timeout_text
from waypoint.core.message import Headers, Request

TOTAL: Final = "x-envoy-upstream-rq-timeout-ms"
PER_TRY: Final = "x-envoy-upstream-rq-per-try-timeout-ms"
ALT_RESPONSE: Final = "x-envoy-upstream-rq-timeout-alt-response"
EXPECTED: Final = "x-envoy-expected-rq-timeout-ms"


class Timeouts(NamedTuple):
    """Limits in seconds, None where there is none. ``silent``: a timeout answers 204, not 504."""

    total_s: float | None = None
    per_try_s: float | None = None
    silent: bool = False

    def tell(self, headers: Headers, left_s: float = math.inf) -> None:
        """Let the application know how long a try may take, ``left_s`` of the total being left."""
        limit_s = self.per_try_s if self.per_try_s is not None else self.total_s
        if limit_s is None:
            return
        expected_ms = max(1, round(min(limit_s, left_s) * 1000))  # 0 would be no limit
        headers.set(EXPECTED, str(expected_ms))
        if is_grpc(headers):
            headers.set("grpc-timeout", timeout_text(expected_ms))


def timeouts_of(request: Request, total_s: float | None, per_try_s: float | None) -> Timeouts:
    """The limits of a request; takes the headers that are for us, and tells the application."""
    headers = request.headers
    silent = False
    if is_grpc(headers):
        total_s = _capped(timeout_s(headers), total_s)
    if _asks(headers):
        total_s = _asked_s(headers.first(TOTAL), total_s)
        per_try_s = _asked_s(headers.first(PER_TRY), per_try_s)
        silent = ALT_RESPONSE in headers
        headers.remove(TOTAL, PER_TRY, ALT_RESPONSE)
    if per_try_s is not None and total_s is not None and per_try_s >= total_s:
        per_try_s = None
    found = Timeouts(total_s, per_try_s, silent)
    found.tell(headers)
    return found


def _asks(headers: Headers) -> bool:
    for name, _ in headers.items:  # noqa: SIM110 - a generator costs several times as much
        if name.startswith("x-envoy-upstream-rq-"):
            return True
    return False


def _capped(asked_s: float | None, limit_s: float | None) -> float | None:
    known = [value for value in (asked_s, limit_s) if value is not None]
    return min(known, default=None)


def _asked_s(text: str | None, otherwise_s: float | None) -> float | None:
    """A number of milliseconds, where 0 means no limit; anything else is not a wish."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return otherwise_s
    return int(text) / 1000 or None
