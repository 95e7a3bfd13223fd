"""Times of Envoy's connection manager, as EnvoyFilters write them."""

from __future__ import annotations

import math

import pytest

from tests.unit.waypoint.core.test_rate_limit import limits
from waypoint.core.stream_limits import MANAGER, NO_LIMITS, StreamLimits, read_stream_limits


def manager(port=None, **fields):
    match = {"match": {"listener": {"portNumber": port}}} if port else {}
    wrapped = {"@type": "x/envoy.HttpConnectionManager", **fields}
    patch = {"operation": "MERGE", "value": {"name": MANAGER, "typed_config": wrapped}}
    return {"applyTo": "NETWORK_FILTER", "patch": patch, **match}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"stream_idle_timeout": "5s"}, StreamLimits(idle_s=5.0)),
        ({"requestTimeout": "1.5s"}, StreamLimits(request_s=1.5)),
        ({"common_http_protocol_options": {"max_stream_duration": "1m"}},
         StreamLimits(whole_s=60.0)),
        ({"request_headers_timeout": "2s", "commonHttpProtocolOptions": {"idleTimeout": "3s"}},
         StreamLimits(head_s=2.0, rest_s=3.0)),
        ({"stream_idle_timeout": "0s", "request_timeout": "3s"}, StreamLimits(request_s=3.0)),
    ],
)  # fmt: skip
def test_what_is_read(fields, found):
    assert read_stream_limits(fields, "f") == (found, ())


def test_later_patches_and_those_of_the_port_count_first():
    found, problems = limits(
        manager(9080, stream_idle_timeout="9s"),
        manager(stream_idle_timeout="1s", request_timeout="2s"),
        manager(request_timeout="3s"),
    )
    assert problems == ()
    assert found.streams(9080) == StreamLimits(idle_s=9.0, request_s=3.0)
    assert found.streams(80) == StreamLimits(idle_s=1.0, request_s=3.0)
    assert not limits()[0].streams(80)
    assert StreamLimits(idle_s=math.inf) == NO_LIMITS


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"stream_idle_timeout": "5s", "server_name": "x", "use_remote_address": True},
         ["server_name", "use_remote_address"]),
        ({"common_http_protocol_options": {"max_headers_count": 9}},
         ["common_http_protocol_options.max_headers_count"]),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_named(fields, problems):
    found = limits(manager(**fields))[1]
    assert [one.field.partition("value.")[2] for one in found] == problems


@pytest.mark.parametrize("fields", [{}, {"stream_idle_timeout": "soon"}, {"request_timeout": 3}])
def test_what_says_nothing_has_no_effect(fields):
    found, (problem,) = limits(manager(**fields))
    assert not found.streams(80)
    assert problem.effect == "the patch has no effect"
