"""When a request is sent again: the conditions, their spelling, and what the client may ask for."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from waypoint.core.message import Headers
from waypoint.core.objects import (
    Json,
    UnusableError,
    boolean,
    duration_s,
    integer,
    mapping,
    sequence,
    string,
)

BASE_BACKOFF_S: Final = 0.025
BACKOFF_CAP: Final = 10
"""The longest pause is this many times the base (Envoy)."""
DEFAULT_ATTEMPTS: Final = 2
MAX_ATTEMPTS: Final = 1000
"""Nobody means more; the API has no limit."""


class RetryOn:
    """Conditions, with Envoy's names: bits of a number, since ``enum.Flag`` costs a microsecond
    for each look, and a request takes several."""

    NOTHING: Final = 0
    SERVER_ERROR: Final = 1 << 0
    GATEWAY_ERROR: Final = 1 << 1
    RESET: Final = 1 << 2
    RESET_BEFORE_REQUEST: Final = 1 << 3
    CONNECT_FAILURE: Final = 1 << 4
    RATE_LIMITED: Final = 1 << 5
    RETRIABLE_4XX: Final = 1 << 6
    REFUSED_STREAM: Final = 1 << 7
    RETRIABLE_STATUS_CODES: Final = 1 << 8
    RETRIABLE_HEADERS: Final = 1 << 9
    HTTP3_POST_CONNECT_FAILURE: Final = 1 << 10
    GRPC_CANCELLED: Final = 1 << 11
    GRPC_DEADLINE_EXCEEDED: Final = 1 << 12
    GRPC_INTERNAL: Final = 1 << 13
    GRPC_RESOURCE_EXHAUSTED: Final = 1 << 14
    GRPC_UNAVAILABLE: Final = 1 << 15


HTTP_CONDITIONS: Final = {
    "5xx": RetryOn.SERVER_ERROR,
    "gateway-error": RetryOn.GATEWAY_ERROR,
    "reset": RetryOn.RESET,
    "reset-before-request": RetryOn.RESET_BEFORE_REQUEST,
    "connect-failure": RetryOn.CONNECT_FAILURE,
    "envoy-ratelimited": RetryOn.RATE_LIMITED,
    "retriable-4xx": RetryOn.RETRIABLE_4XX,
    "refused-stream": RetryOn.REFUSED_STREAM,
    "retriable-status-codes": RetryOn.RETRIABLE_STATUS_CODES,
    "retriable-headers": RetryOn.RETRIABLE_HEADERS,
    "http3-post-connect-failure": RetryOn.HTTP3_POST_CONNECT_FAILURE,
}
GRPC_CONDITIONS: Final = {
    "cancelled": RetryOn.GRPC_CANCELLED,
    "deadline-exceeded": RetryOn.GRPC_DEADLINE_EXCEEDED,
    "internal": RetryOn.GRPC_INTERNAL,
    "resource-exhausted": RetryOn.GRPC_RESOURCE_EXHAUSTED,
    "unavailable": RetryOn.GRPC_UNAVAILABLE,
}
GRPC_STATUSES: Final = {
    "1": RetryOn.GRPC_CANCELLED,
    "4": RetryOn.GRPC_DEADLINE_EXCEEDED,
    "8": RetryOn.GRPC_RESOURCE_EXHAUSTED,
    "13": RetryOn.GRPC_INTERNAL,
    "14": RetryOn.GRPC_UNAVAILABLE,
}
CONDITIONS: Final = {**HTTP_CONDITIONS, **GRPC_CONDITIONS}
DEFAULT_ON: Final = (
    RetryOn.CONNECT_FAILURE
    | RetryOn.REFUSED_STREAM
    | RetryOn.GRPC_UNAVAILABLE
    | RetryOn.GRPC_CANCELLED
    | RetryOn.RETRIABLE_STATUS_CODES
)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often, when and how fast a request is repeated.

    ``attempts`` counts repetitions, without the first try. ``per_try_s`` None leaves each try the
    whole of the route's time.
    """

    attempts: int = DEFAULT_ATTEMPTS
    on: int = DEFAULT_ON
    """``RetryOn``, several together."""
    statuses: frozenset[int] = frozenset()
    headers: tuple[str, ...] = ()
    """Names of response headers whose presence asks for a retry (``retriable-headers``)."""
    per_try_s: float | None = None
    backoff_s: float = BASE_BACKOFF_S
    least_s: float = 0.0
    """No pause is shorter (Gateway API)."""
    avoid_tried: bool = True
    remote_localities: bool = False
    default: bool = False
    """Nobody has said anything: the mesh's default may take its place."""

    def within(self, mesh: RetryPolicy) -> RetryPolicy:
        """What holds where the mesh has a default (``defaultHttpRetryPolicy``)."""
        if not self.default or mesh.default:
            return self
        per_try_s = mesh.per_try_s if self.per_try_s is None else self.per_try_s
        return msgspec.structs.replace(mesh, per_try_s=per_try_s)

    def pause_s(self, retry: int, draw: float) -> float:
        """The pause before a retry (the first is 1): random, and doubled in its limit each time."""
        return self.least_s + draw * self.backoff_s * min(1 << (retry - 1), BACKOFF_CAP)


DEFAULT: Final = RetryPolicy(default=True)
"""What holds where nothing is configured (Istio)."""
NONE: Final = RetryPolicy(attempts=0, on=RetryOn.NOTHING)


def compile_retries(raw: Any, field: str) -> RetryPolicy:
    """VirtualService ``retries``. Raises UnusableError."""
    if raw is None:
        return DEFAULT
    spec = mapping(raw, field)
    attempts = spec.get("attempts", DEFAULT_ATTEMPTS)
    if isinstance(attempts, int) and attempts <= 0:
        return NONE
    on, statuses = _conditions(string(spec.get("retryOn"), f"{field}.retryOn"), f"{field}.retryOn")
    return RetryPolicy(
        attempts=_attempts(attempts, f"{field}.attempts"),
        on=on,
        statuses=statuses,
        per_try_s=duration_s(spec.get("perTryTimeout"), f"{field}.perTryTimeout"),
        backoff_s=duration_s(spec.get("backoff"), f"{field}.backoff") or BASE_BACKOFF_S,
        avoid_tried=boolean(
            spec.get("retryIgnorePreviousHosts"), f"{field}.retryIgnorePreviousHosts", default=True
        ),
        remote_localities=boolean(
            spec.get("retryRemoteLocalities"), f"{field}.retryRemoteLocalities"
        ),
    )


def compile_gateway_retry(raw: Any, field: str) -> RetryPolicy:
    """HTTPRoute ``retry`` (GEP-1731): whatever happens to the connection, and tries that take too
    long, always count; responses by code. ``backoff`` is the least pause."""
    if raw is None:
        return DEFAULT
    spec: Json = mapping(raw, field)
    codes = sequence(spec.get("codes"), f"{field}.codes")
    attempts = spec.get("attempts", DEFAULT_ATTEMPTS)
    if attempts == 0:
        return NONE
    return RetryPolicy(
        attempts=_attempts(attempts, f"{field}.attempts"),
        on=DEFAULT_ON | RetryOn.RESET,
        statuses=frozenset(_status(code, f"{field}.codes") for code in codes),
        least_s=duration_s(spec.get("backoff"), f"{field}.backoff") or 0.0,
    )


def _attempts(value: Any, field: str) -> int:
    attempts = integer(value, field)
    if attempts > MAX_ATTEMPTS:
        raise UnusableError(field, f"{attempts} is more than {MAX_ATTEMPTS}")
    return attempts


def _status(value: Any, field: str) -> int:
    code = integer(value, field)
    if not 100 <= code <= 599:
        raise UnusableError(field, f"{code} is not an HTTP status")
    return code


def _conditions(text: str, field: str) -> tuple[int, frozenset[int]]:
    """A comma-separated ``retryOn``: conditions, and numbers as status codes."""
    if not text:
        return DEFAULT_ON, frozenset()
    on: int = RetryOn.NOTHING
    statuses = set[int]()
    for token in (part.strip() for part in text.split(",")):
        if token in CONDITIONS:
            on |= CONDITIONS[token]
        elif token.isascii() and token.isdigit() and 100 <= int(token) <= 599:
            statuses.add(int(token))
            on |= RetryOn.RETRIABLE_STATUS_CODES
        elif token:
            raise UnusableError(field, f"{token!r} is not a condition")
    return on, frozenset(statuses)


ASKED: Final = (
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
)
"""Request headers that are for us, and that the application does not see."""
_ASKED: Final = frozenset(ASKED)


def asked_for(policy: RetryPolicy, headers: Headers) -> RetryPolicy:
    """The policy with what the client asked for; takes those headers out. Unknown words are
    ignored, as by Envoy."""
    for name, _ in headers.items:
        if name in _ASKED:
            return _as_asked(policy, headers)
    return policy


def _as_asked(policy: RetryPolicy, headers: Headers) -> RetryPolicy:
    asked = {name: value for name in ASKED if (value := headers.get(name)) is not None}
    headers.remove(*ASKED)
    on = policy.on
    for name, known in (("retry-on", HTTP_CONDITIONS), ("retry-grpc-on", GRPC_CONDITIONS)):
        for token in asked.get(f"x-envoy-{name}", "").split(","):
            on |= known.get(token.strip(), RetryOn.NOTHING)
    codes = asked.get("x-envoy-retriable-status-codes", "").split(",")
    numbers = {int(code) for c in codes if (code := c.strip()).isascii() and code.isdigit()}
    names = asked.get("x-envoy-retriable-header-names", "").split(",")
    wanted = tuple(name.strip().lower() for name in names if name.strip())
    attempts = policy.attempts
    if on and not policy.on:
        attempts = 1  # Envoy, where no policy is configured
    most = asked.get("x-envoy-max-retries", "")
    if on and most.isascii() and most.isdigit() and len(most) < 10:
        attempts = min(int(most), MAX_ATTEMPTS)
    return msgspec.structs.replace(
        policy,
        on=on,
        attempts=attempts,
        statuses=policy.statuses | numbers,
        headers=policy.headers + wanted,
    )
