"""Faults that a route injects: a delay, then an answer instead of the application's."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from waypoint.core.grpc import GrpcStatus
from waypoint.core.message import Reply
from waypoint.core.objects import UnusableError, duration_s, fraction, integer, mapping, string

ABORT_BODY: Final = "fault filter abort"
DELAY_FLAG: Final = "DI"
SHORTEST_DELAY_S: Final = 0.001


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is injected, and into which part (0 to 1) of the requests."""

    delay_s: float = 0.0
    delay_share: float = 0.0
    abort: Reply | None = None
    abort_share: float = 0.0

    def delay_for(self, draw: float) -> float:
        """The delay of a request, in seconds; ``draw`` is in [0, 1)."""
        return self.delay_s if draw < self.delay_share else 0.0

    def abort_for(self, draw: float) -> Reply | None:
        """The answer that a request gets instead of the application's; the draw is another one."""
        return self.abort if draw < self.abort_share else None


def compile_fault(raw: Any, field: str) -> Fault | None:
    """VirtualService ``fault``. Raises UnusableError."""
    spec = mapping(raw, field)
    delay_s, delay_share = _delay(spec.get("delay"), f"{field}.delay")
    abort, abort_share = _abort(spec.get("abort"), f"{field}.abort")
    if not delay_share and not abort_share:
        return None
    return Fault(delay_s=delay_s, delay_share=delay_share, abort=abort, abort_share=abort_share)


def _delay(raw: Any, field: str) -> tuple[float, float]:
    if raw is None:
        return 0.0, 0.0
    spec = mapping(raw, field)
    if spec.get("exponentialDelay"):
        raise UnusableError(f"{field}.exponentialDelay", "not supported, by Istio neither")
    fixed_s = duration_s(spec.get("fixedDelay"), f"{field}.fixedDelay") or 0.0
    if fixed_s < SHORTEST_DELAY_S:
        raise UnusableError(f"{field}.fixedDelay", "has to be 1ms or more")
    share = fraction(spec.get("percentage"), f"{field}.percentage")
    if share is None:
        share = min(integer(spec.get("percent"), f"{field}.percent"), 100) / 100
    return fixed_s, share


def _abort(raw: Any, field: str) -> tuple[Reply | None, float]:
    if raw is None:
        return None, 0.0
    spec = mapping(raw, field)
    if spec.get("http2Error"):
        raise UnusableError(f"{field}.http2Error", "not supported, by Istio neither")
    share = fraction(spec.get("percentage"), f"{field}.percentage") or 0.0
    name = string(spec.get("grpcStatus"), f"{field}.grpcStatus")
    if name:
        if name not in GrpcStatus.__members__:
            raise UnusableError(f"{field}.grpcStatus", f"{name!r} is not a gRPC status")
        return _abortion(200, int(GrpcStatus[name])), share
    status = integer(spec.get("httpStatus"), f"{field}.httpStatus")
    if not 200 <= status <= 599:
        raise UnusableError(f"{field}.httpStatus", f"{status} is not a final HTTP status")
    return _abortion(status), share


def _abortion(status: int, grpc_status: int | None = None) -> Reply:
    return Reply(status, ABORT_BODY, "FI", "fault_filter_abort", grpc_status=grpc_status)
