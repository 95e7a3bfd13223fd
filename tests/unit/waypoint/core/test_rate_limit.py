"""Token buckets and descriptors, as EnvoyFilter says them."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import config, program, request, service
from waypoint.core.rate_limit import Bucket, Buckets, LocalLimit, descriptors, refusal
from waypoint.core.rate_limit_config import read_rate_limits

TARGETS = [{"kind": "Service", "group": "", "name": "reviews"}]
ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
LOCAL = "envoy.filters.http.local_ratelimit"


def bucket(most, tokens=1, interval="60s"):
    return {"max_tokens": most, "tokens_per_fill": tokens, "fill_interval": interval}


def local(most=2, **more):
    return {
        "stat_prefix": "x",
        "token_bucket": bucket(most),
        "filter_enabled": ALWAYS,
        "filter_enforced": ALWAYS,
        **more,
    }


def http_filter(value, name=LOCAL):
    wrapped = {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "value": value}
    patch = {"operation": "INSERT_BEFORE", "value": {"name": name, "typed_config": wrapped}}
    return {"applyTo": "HTTP_FILTER", "patch": patch}


def on_route(value, vhost="inbound|http|9080", **route):
    match = {
        "routeConfiguration": {"vhost": {"name": vhost, **({"route": route} if route else {})}}
    }
    return {
        "applyTo": "HTTP_ROUTE",
        "match": match,
        "patch": {"operation": "MERGE", "value": value},
    }


def limits(*patches):
    made = program(
        config("EnvoyFilter", "rates", {"targetRefs": TARGETS, "configPatches": list(patches)})
    )
    return made.guards.limits(service()), made.problems


def spent(limit, *times, found=()):
    buckets = Buckets()
    verdicts = [buckets.take(limit, list(found), time) for time in times]
    return [verdict.passes for verdict in verdicts if verdict is not None]


def made(most, tokens=1, interval_s=10.0, **more):
    return LocalLimit(name="x", bucket=Bucket(most, tokens, interval_s), **more)


@pytest.mark.parametrize(
    ("limit", "times", "passes"),
    [
        (made(2), (0, 0, 0), [True, True, False]),
        (made(2), (0, 0, 9.9, 10, 10), [True, True, False, True, False]),  # whole fills only
        (made(2, 5), (0, 0, 10, 10, 10), [True, True, True, True, False]),  # never above max
        (made(1), (0, 25, 29, 30), [True, True, False, True]),  # at the bounds of intervals
    ],
)
def test_a_bucket(limit, times, passes):
    assert spent(limit, *times) == passes


def test_descriptors_have_buckets_of_their_own():
    gold, tin = (("tier", "gold"),), (("tier", "tin"),)
    limit = made(3, descriptors=((gold, Bucket(1, 1, 10.0)),))
    assert spent(limit, 0, 0, found=[gold]) == [True, False]
    assert spent(limit, 0, 0, 0, 0, found=[tin]) == [True, True, True, False]
    only = made(0, descriptors=((gold, Bucket(1, 1, 10.0)),), always_default=False)
    assert spent(only, 0, 0, found=[gold]) == [True, False]


def test_a_bucket_that_is_configured_anew_is_full():
    buckets = Buckets()
    assert buckets.take(made(1), [], 0).passes
    assert not buckets.take(made(1), [], 1).passes
    assert buckets.take(made(2), [], 1).passes
    buckets.keep(frozenset({"x"}))
    assert buckets.take(made(2), [], 1).passes
    assert not buckets.take(made(2), [], 1).passes
    buckets.keep(frozenset())
    assert buckets.take(made(2), [], 1).passes


def test_an_envoy_filter_with_a_local_limit():
    found, problems = limits(http_filter(local(enable_x_ratelimit_headers="DRAFT_VERSION_03")))
    assert problems == ()
    (limit,) = found.local(9080, "any")
    assert (limit.bucket, limit.enabled, limit.enforced) == (Bucket(2, 1, 60.0), 1.0, 1.0)
    buckets = Buckets()
    for _ in range(2):
        buckets.take(limit, [], 0.0)
    verdict = buckets.take(limit, [], 12.5)
    reply = refusal(limit, verdict)
    assert (reply.status, reply.body, reply.flag) == (429, "local_rate_limited", "RL")
    assert reply.headers == (
        ("x-envoy-ratelimited", "true"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "48"),
    )


def test_routes_and_ports_come_before_the_filter():
    per = {"typed_per_filter_config": {LOCAL: {"value": local(7), "@type": "x/TypedStruct"}}}
    one = {"typed_per_filter_config": {LOCAL: local(9)}}
    found, problems = limits(http_filter(local(2)), on_route(per), on_route(one, name="slow"))
    assert problems == ()
    most = [found.local(port, route)[0].bucket.most for port, route in
            ((80, ""), (9080, ""), (9080, "slow"))]  # fmt: skip
    assert most == [2, 7, 9]


@pytest.mark.parametrize(
    ("action", "entry"),
    [
        ({"generic_key": {"descriptor_value": "v"}}, ("generic_key", "v")),
        ({"genericKey": {"descriptorKey": "k", "descriptorValue": "v"}}, ("k", "v")),
        ({"remote_address": {}}, ("remote_address", "10.0.9.9")),
        ({"source_cluster": {}}, ("source_cluster", "curl.shop")),
        ({"destination_cluster": {}}, ("destination_cluster", "c")),
        ({"request_headers": {"header_name": "X-Team", "descriptor_key": "t"}}, ("t", "blue")),
        ({"request_headers": {"header_name": ":path", "descriptor_key": "p"}}, ("p", "/a?q=1")),
        ({"request_headers": {"header_name": "x-none", "descriptor_key": "t"}}, None),
        ({"query_parameters": {"query_parameter_name": "q", "descriptor_key": "q"}}, ("q", "1")),
        ({"header_value_match": {"descriptor_value": "v", "headers": [
            {"name": ":path", "string_match": {"prefix": "/a"}}]}}, ("header_match", "v")),
        ({"header_value_match": {"descriptor_value": "v", "expect_match": False, "headers": [
            {"name": ":path", "string_match": {"prefix": "/a"}}]}}, None),
        ({"metadata": {"descriptor_key": "sub", "metadata_key": {
            "key": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}, {"key": "sub"}]
        }}}, ("sub", "alice")),
    ],
)  # fmt: skip
def test_actions(action, entry):
    asked = request(target="/a?q=1", headers={"x-team": "blue"})
    asked.claims = {"sub": "alice"}
    found = descriptors(read_rate_limits([{"actions": [action]}], "f"), asked, "c")
    assert found == ([] if entry is None else [(entry,)])


def test_one_missing_entry_drops_the_descriptor():
    actions = [
        {"remote_address": {}},
        {"request_headers": {"header_name": "x", "descriptor_key": "x"}},
    ]
    read = read_rate_limits([{"actions": actions}, {"actions": actions[:1]}], "f")
    assert descriptors(read, request(), "c") == [(("remote_address", "10.0.9.9"),)]


GLOBAL = {
    "domain": "shop",
    "failure_mode_deny": True,
    "rate_limit_service": {
        "grpc_service": {
            "envoy_grpc": {"cluster_name": "outbound|8081||rls.shop.svc.cluster.local"}
        }
    },
}


def test_a_global_limit():
    counting = on_route({"rate_limits": [{"actions": [{"remote_address": {}}]}]})
    found, problems = limits(http_filter(GLOBAL, "envoy.filters.http.ratelimit"), counting)
    assert problems == ()
    (limit,) = found.counted()
    assert (limit.domain, str(limit.at)) == ("shop", "rls.shop.svc.cluster.local:8081")
    assert len(found.actions(9080, "")) == 1
    assert found.actions(80, "") == ()


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"applyTo": "CLUSTER", "patch": {"value": {}}}, "spec.configPatches[0]"),
        (http_filter({}, "envoy.filters.http.lua"), "spec.configPatches[0]"),
        (http_filter(local(token_bucket=bucket(1, interval="1ms"))),
         "spec.configPatches[0].patch.value.token_bucket"),
        (http_filter({"domain": "x"}, "envoy.filters.http.ratelimit"),
         "spec.configPatches[0].patch.value"),
        (on_route({"rate_limits": [{"actions": [{"teapot": {}}]}]}),
         "spec.configPatches[0].patch.value.rate_limits[0].teapot"),
        ("nonsense", "spec.configPatches[0]"),
    ],
)  # fmt: skip
def test_patches_without_effect_are_named(patch, field):
    _, problems = limits(patch)
    assert [one.field for one in problems] == [field]
