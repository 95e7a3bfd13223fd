"""Delays and aborts: their parts of the traffic, and what is refused."""

from __future__ import annotations

import pytest

from waypoint.core.fault import compile_fault
from waypoint.core.grpc import trailers_only
from waypoint.core.objects import UnusableError


def test_delay_and_abort_are_drawn_apart():
    fault = compile_fault(
        {
            "delay": {"fixedDelay": "2s", "percentage": {"value": 10}},
            "abort": {"httpStatus": 503, "percentage": {"value": 50.5}},
        },
        "fault",
    )
    assert [fault.delay_for(draw) for draw in (0.0, 0.0999, 0.1, 0.9)] == [2.0, 2.0, 0.0, 0.0]
    assert [bool(fault.abort_for(draw)) for draw in (0.0, 0.504, 0.506)] == [True, True, False]
    reply = fault.abort_for(0.0)
    assert (reply.status, reply.body, reply.flag) == (503, "fault filter abort", "FI")


def test_a_grpc_status_is_for_grpc_clients_only():
    fault = compile_fault(
        {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}, "fault"
    )
    reply = fault.abort_for(0.5)
    assert (reply.status, reply.body, reply.grpc_status) == (200, "fault filter abort", 14)
    assert dict(trailers_only(reply).headers)["grpc-status"] == "14"


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"abort": {"httpStatus": 500}},  # without a percentage nothing is aborted
        {"delay": {"fixedDelay": "1s"}},
        {"delay": {"fixedDelay": "1s", "percentage": {}}},
    ],
)
def test_nothing_is_injected(spec):
    assert compile_fault(spec, "fault") is None


def test_the_old_percent_counts():
    assert compile_fault({"delay": {"fixedDelay": "1s", "percent": 50}}, "f").delay_share == 0.5


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"abort": {"httpStatus": 99, "percentage": {"value": 1}}}, "fault.abort.httpStatus"),
        ({"abort": {"grpcStatus": "BAD"}}, "fault.abort.grpcStatus"),
        ({"abort": {"http2Error": "x"}}, "fault.abort.http2Error"),
        ({"abort": {"httpStatus": 500, "percentage": {"value": 101}}}, "percentage.value"),
        ({"delay": {"fixedDelay": "0.5ms"}}, "fault.delay.fixedDelay"),
        ({"delay": {"exponentialDelay": "1s"}}, "fault.delay.exponentialDelay"),
        ({"delay": []}, "fault.delay"),
    ],
)
def test_what_cannot_be_used_is_named(spec, field):
    with pytest.raises(UnusableError, match=field):
        compile_fault(spec, "fault")
