"""Limits of the route, of gRPC clients and of x-envoy headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.waypoint.sample import request
from waypoint.core.timeouts import Timeouts, timeouts_of

GRPC = {"content-type": "application/grpc"}


@pytest.mark.parametrize(
    ("headers", "total_s", "per_try_s", "want", "expected_ms"),
    [
        ({}, None, None, Timeouts(), None),
        ({}, 3.0, None, Timeouts(3.0), "3000"),
        ({}, 3.0, 1.0, Timeouts(3.0, 1.0), "1000"),
        ({}, 3.0, 3.0, Timeouts(3.0), "3000"),  # a try that may take as long is no limit
        ({}, None, 1.0, Timeouts(None, 1.0), "1000"),
        ({"x-envoy-upstream-rq-timeout-ms": "250"}, 3.0, None, Timeouts(0.25), "250"),
        ({"x-envoy-upstream-rq-timeout-ms": "0"}, 3.0, None, Timeouts(), None),
        ({"x-envoy-upstream-rq-timeout-ms": "soon"}, 3.0, None, Timeouts(3.0), "3000"),
        ({"x-envoy-upstream-rq-per-try-timeout-ms": "20"}, 1.0, None, Timeouts(1.0, 0.02), "20"),
        (
            {"x-envoy-upstream-rq-timeout-alt-response": "1"},
            1.0,
            None,
            Timeouts(1.0, None, True),
            "1000",
        ),
        ({**GRPC, "grpc-timeout": "100m"}, None, None, Timeouts(0.1), "100"),
        ({**GRPC, "grpc-timeout": "5S"}, 1.0, None, Timeouts(1.0), "1000"),
        ({**GRPC, "grpc-timeout": "100m"}, 1.0, None, Timeouts(0.1), "100"),
        ({"grpc-timeout": "100m"}, 1.0, None, Timeouts(1.0), "1000"),  # not gRPC
    ],
)
def test_limits(headers, total_s, per_try_s, want, expected_ms):
    asked = request(headers=headers)
    assert timeouts_of(asked, total_s, per_try_s) == want
    assert asked.headers.first("x-envoy-expected-rq-timeout-ms") == expected_ms
    assert not any(name.startswith("x-envoy-upstream-rq-") for name, _ in asked.headers)


@given(st.text(max_size=20))
def test_any_value_of_a_client_is_harmless(text):
    asked = request(headers={"x-envoy-upstream-rq-timeout-ms": text})
    found = timeouts_of(asked, 1.0, None)
    assert found.total_s is None or found.total_s > 0


def test_what_is_left_is_told_before_each_try():
    headers = request(headers=GRPC).headers
    Timeouts(3.0, 1.0).tell(headers, 0.25)
    assert (headers.first("x-envoy-expected-rq-timeout-ms"), headers.first("grpc-timeout")) == (
        "250",
        "250m",
    )
    Timeouts(3.0).tell(headers, -1.0)  # 0 would mean no limit
    assert headers.first("x-envoy-expected-rq-timeout-ms") == "1"
