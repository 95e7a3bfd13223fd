"""How retries are spelled, by configuration and by clients."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.message import Headers
from waypoint.core.objects import UnusableError
from waypoint.core.retry_policy import (
    CONDITIONS,
    DEFAULT,
    DEFAULT_ON,
    NONE,
    RetryOn,
    RetryPolicy,
    asked_for,
    compile_gateway_retry,
    compile_retries,
)


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        (None, DEFAULT),
        ({}, RetryPolicy()),  # a word of its own, which the mesh does not replace
        ({"attempts": 0}, NONE),
        ({"attempts": -1}, NONE),
        ({"attempts": 5}, RetryPolicy(attempts=5)),
        ({"attempts": 1, "retryOn": "5xx"}, RetryPolicy(attempts=1, on=RetryOn.SERVER_ERROR)),
        (
            {"attempts": 1, "retryOn": "gateway-error, reset,503,429"},
            RetryPolicy(
                attempts=1,
                on=RetryOn.GATEWAY_ERROR | RetryOn.RESET | RetryOn.RETRIABLE_STATUS_CODES,
                statuses=frozenset((503, 429)),
            ),
        ),
        (
            {"attempts": 3, "perTryTimeout": "2s", "backoff": "10ms"},
            RetryPolicy(attempts=3, per_try_s=2.0, backoff_s=0.01),
        ),
        (
            {"attempts": 3, "retryRemoteLocalities": True, "retryIgnorePreviousHosts": False},
            RetryPolicy(attempts=3, remote_localities=True, avoid_tried=False),
        ),
    ],
)
def test_virtual_service(spec, want):
    assert compile_retries(spec, "retries") == want


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"attempts": 1, "retryOn": "often"}, "retries.retryOn"),
        ({"attempts": 1, "retryOn": "99"}, "retries.retryOn"),
        ({"attempts": 1001}, "retries.attempts"),
        ({"attempts": "2"}, "retries.attempts"),
        ({"attempts": 1, "perTryTimeout": "x"}, "retries.perTryTimeout"),
        ("x", "retries"),
    ],
)
def test_what_cannot_be_used_is_named(spec, field):
    with pytest.raises(UnusableError) as bad:
        compile_retries(spec, "retries")
    assert bad.value.field == field


def test_gateway_api():
    assert compile_gateway_retry(None, "retry") == DEFAULT
    found = compile_gateway_retry({"codes": [500, 503], "backoff": "1s"}, "retry")
    assert found == RetryPolicy(
        attempts=2, on=DEFAULT_ON | RetryOn.RESET, statuses=frozenset((500, 503)), least_s=1.0
    )
    assert found.pause_s(1, 0.0) == 1.0  # never less
    assert found.pause_s(2, 1.0) == 1.05
    assert compile_gateway_retry({"attempts": 0}, "retry") == NONE
    with pytest.raises(UnusableError, match="codes"):
        compile_gateway_retry({"codes": [7]}, "retry")


def test_pauses_double_up_to_ten_times_the_base():
    assert [DEFAULT.pause_s(n, 1.0) for n in (1, 2, 3, 4, 5, 99)] == [
        0.025, 0.05, 0.1, 0.2, 0.25, 0.25,
    ]  # fmt: skip
    assert DEFAULT.pause_s(3, 0.5) == 0.05


@pytest.mark.parametrize(
    ("policy", "headers", "changes"),
    [
        (DEFAULT, {}, {}),
        (DEFAULT, {"x-envoy-retry-on": "5xx,nonsense"}, {"on": DEFAULT_ON | RetryOn.SERVER_ERROR}),
        (
            DEFAULT,
            {"x-envoy-retry-grpc-on": "internal, 5xx"},
            {"on": DEFAULT_ON | RetryOn.GRPC_INTERNAL},
        ),
        (DEFAULT, {"x-envoy-max-retries": "7"}, {"attempts": 7}),
        (DEFAULT, {"x-envoy-max-retries": "-1"}, {}),
        (DEFAULT, {"x-envoy-retriable-status-codes": "418, x"}, {"statuses": frozenset((418,))}),
        (DEFAULT, {"x-envoy-retriable-header-names": "X-Again"}, {"headers": ("x-again",)}),
        (NONE, {"x-envoy-max-retries": "7"}, {}),
        (NONE, {"x-envoy-retry-on": "reset"}, {"on": RetryOn.RESET, "attempts": 1}),
    ],
)
def test_clients_may_ask(policy, headers, changes):
    said = Headers([("a", "b"), *headers.items()])
    assert asked_for(policy, said) == msgspec.structs.replace(policy, **changes)
    assert said.items == [("a", "b")]  # the application does not see it


@given(st.lists(st.sampled_from(sorted(CONDITIONS)), min_size=1, unique=True))
def test_any_list_of_conditions_is_read(tokens):
    found = compile_retries({"attempts": 1, "retryOn": ",".join(tokens)}, "retries")
    assert {name for name, flag in CONDITIONS.items() if flag & found.on} == set(tokens)


@given(st.text(max_size=30))
def test_any_text_of_a_client_is_harmless(text):
    names = ("x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes")
    found = asked_for(DEFAULT, Headers((name, text) for name in names))
    assert 0 <= found.attempts <= 1000
