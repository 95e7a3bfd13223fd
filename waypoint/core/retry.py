"""Whether what came of a try is worth another one."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from waypoint.core.message import Headers
from waypoint.core.reset import Reset
from waypoint.core.retry_policy import GRPC_STATUSES, RetryOn, RetryPolicy

CONFLICT: Final = 409
"""The one status of ``retriable-4xx`` (Envoy)."""
GATEWAY_ERRORS: Final = (502, 503, 504)


CONNECTING: Final = (Reset.CONNECTION_FAILURE, Reset.CONNECTION_TIMEOUT)
ANY_RESET: Final = RetryOn.RESET | RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR


def retriable_reset(policy: RetryPolicy, reset: Reset, *, sent: bool = True) -> bool:
    """Does the policy want another try? ``sent`` says whether the request's head went out.

    A try that took too long counts as a local reset.
    """
    if reset is Reset.OVERFLOW:
        return False
    on = policy.on
    if on & ANY_RESET:
        return True
    if on & RetryOn.RESET_BEFORE_REQUEST and not sent:
        return True
    if reset in CONNECTING:
        return bool(on & RetryOn.CONNECT_FAILURE)
    return reset is Reset.REFUSED_STREAM and bool(on & RetryOn.REFUSED_STREAM)


def retriable_response(policy: RetryPolicy, status: int, headers: Headers) -> bool:
    """Does the policy want another try instead of this response?"""
    on = policy.on
    code: str | None = None
    for name, value in headers.items:
        if name == "x-envoy-ratelimited":
            return bool(on & RetryOn.RATE_LIMITED)
        if name == "grpc-status" and code is None:
            code = value
    if on & RetryOn.SERVER_ERROR and status >= 500:
        return True
    if on & RetryOn.GATEWAY_ERROR and status in GATEWAY_ERRORS:
        return True
    if on & RetryOn.RETRIABLE_4XX and status == CONFLICT:
        return True
    if on & RetryOn.RETRIABLE_STATUS_CODES and status in policy.statuses:
        return True
    if on & RetryOn.RETRIABLE_HEADERS and any(name in headers for name in policy.headers):
        return True
    return code is not None and bool(on & GRPC_STATUSES.get(code, RetryOn.NOTHING))


class Next(Enum):
    """What follows a try that did not succeed."""

    RETRY = "retry"
    ENOUGH = "no retry left"
    OVERFLOW = "too many retries at once"
    NO = "not retriable"


class Tries:
    """The tries of one request: how many were made, and where."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self.retries = 0
        self.tried: list[tuple[str, int]] = []
        """Endpoints in the order in which they were tried."""

    def after_reset(self, reset: Reset, room: Callable[[], bool], *, sent: bool) -> Next:
        """``room`` says whether the retries of the cluster have a place left."""
        wanted = retriable_reset(self.policy, reset, sent=sent)
        return self._another(room) if wanted else Next.NO

    def after_response(self, status: int, headers: Headers, room: Callable[[], bool]) -> Next:
        """As ``after_reset``."""
        wanted = retriable_response(self.policy, status, headers)
        return self._another(room) if wanted else Next.NO

    def _another(self, room: Callable[[], bool]) -> Next:
        if self.retries >= self.policy.attempts:
            return Next.ENOUGH
        if not room():
            return Next.OVERFLOW
        self.retries += 1
        return Next.RETRY

    def pause_s(self, draw: float) -> float:
        """The pause before the retry that was just decided."""
        return self.policy.pause_s(self.retries, draw)
