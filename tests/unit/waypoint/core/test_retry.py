"""Every condition of Envoy, against every way in which a try can end."""

from __future__ import annotations

import pytest

from waypoint.core.message import Headers
from waypoint.core.reset import Reset
from waypoint.core.retry import Next, Tries, retriable_reset, retriable_response
from waypoint.core.retry_policy import CONDITIONS, RetryOn, RetryPolicy

EVERYTHING = (
    Reset.CONNECTION_FAILURE,
    Reset.CONNECTION_TIMEOUT,
    Reset.CONNECTION_TERMINATION,
    Reset.REMOTE_RESET,
    Reset.REFUSED_STREAM,
    Reset.PROTOCOL_ERROR,
    Reset.LOCAL_RESET,
)


def policy(text, **more):
    on = RetryOn.NOTHING
    for token in text.split(","):
        on |= CONDITIONS[token]
    return RetryPolicy(on=on, **more)


@pytest.mark.parametrize(
    ("on", "retried"),
    [
        ("5xx", EVERYTHING),
        ("gateway-error", EVERYTHING),
        ("reset", EVERYTHING),
        ("connect-failure", EVERYTHING[:2]),
        ("refused-stream", (Reset.REFUSED_STREAM,)),
        ("retriable-4xx", ()),
        ("retriable-status-codes", ()),
        ("retriable-headers", ()),
        ("envoy-ratelimited", ()),
        ("http3-post-connect-failure", ()),
        ("unavailable", ()),
    ],
)
def test_resets(on, retried):
    assert tuple(r for r in EVERYTHING if retriable_reset(policy(on), r)) == retried
    assert not retriable_reset(policy(on), Reset.OVERFLOW)


def test_reset_before_request_asks_whether_the_request_went_out():
    found = policy("reset-before-request")
    assert retriable_reset(found, Reset.CONNECTION_FAILURE, sent=False)
    assert not retriable_reset(found, Reset.CONNECTION_TERMINATION, sent=True)


@pytest.mark.parametrize(
    ("on", "status", "headers", "retried"),
    [
        ("5xx", 500, {}, True),
        ("5xx", 599, {}, True),
        ("5xx", 499, {}, False),
        ("gateway-error", 502, {}, True),
        ("gateway-error", 503, {}, True),
        ("gateway-error", 504, {}, True),
        ("gateway-error", 500, {}, False),
        ("retriable-4xx", 409, {}, True),
        ("retriable-4xx", 404, {}, False),
        ("retriable-status-codes", 418, {}, True),
        ("retriable-status-codes", 503, {}, False),
        ("retriable-headers", 200, {"x-again": ""}, True),
        ("retriable-headers", 200, {}, False),
        ("reset", 503, {}, False),
        ("connect-failure", 503, {}, False),
        ("cancelled", 200, {"grpc-status": "1"}, True),
        ("deadline-exceeded", 200, {"grpc-status": "4"}, True),
        ("resource-exhausted", 200, {"grpc-status": "8"}, True),
        ("internal", 200, {"grpc-status": "13"}, True),
        ("unavailable", 200, {"grpc-status": "14"}, True),
        ("unavailable", 200, {"grpc-status": "13"}, False),
        ("unavailable", 200, {"grpc-status": "99"}, False),
        ("5xx", 503, {"x-envoy-ratelimited": "true"}, False),  # never, but for this condition
        ("envoy-ratelimited", 429, {"x-envoy-ratelimited": "true"}, True),
        ("envoy-ratelimited", 429, {}, False),
    ],
)
def test_responses(on, status, headers, retried):
    found = policy(on, statuses=frozenset((418,)), headers=("x-again",))
    assert retriable_response(found, status, Headers(headers.items())) is retried


def test_retries_end_with_the_attempts():
    tries = Tries(policy("5xx", attempts=2))
    steps = [tries.after_response(500, Headers(), lambda: True) for _ in range(3)]
    assert steps == [Next.RETRY, Next.RETRY, Next.ENOUGH]
    assert tries.after_response(200, Headers(), lambda: True) is Next.NO
    assert tries.retries == 2


def test_without_room_there_is_none():
    tries = Tries(policy("reset", attempts=2))
    assert tries.after_reset(Reset.REMOTE_RESET, lambda: False, sent=True) is Next.OVERFLOW
    assert tries.after_reset(Reset.REMOTE_RESET, lambda: True, sent=True) is Next.RETRY
    assert tries.pause_s(0.4) == pytest.approx(0.01)
