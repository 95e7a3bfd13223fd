"""Token buckets and descriptors, as EnvoyFilter says them."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import config, program, request, service
from waypoint.core.rate_limit import Beside, Found, LocalLimit, descriptors, refusal, spend
from waypoint.core.rate_limit_config import read_rate_limits
from waypoint.core.token_bucket import Bucket

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


class Memory(dict):
    """Slots of a test."""

    def change(self, key, step, now_s):
        self[key] = step(self.get(key, 0.0))
        return self[key]


def spent(limit, *times, found=()):
    slots = Memory()
    made = [Found(entries) for entries in found]
    verdicts = [spend(limit, "here", made, slots, time) for time in times]
    return [verdict.passes for verdict in verdicts if verdict is not None]


def made(most, tokens=1, interval_s=10.0, **more):
    return LocalLimit(name="x", bucket=Bucket(most, tokens, interval_s), **more)


@pytest.mark.parametrize(
    ("limit", "times", "passes"),
    [
        (made(2), (0, 0, 0), [True, True, False]),
        (made(2), (0, 0, 9.9, 10, 10), [True, True, False, True, False]),
        (made(2, 5), (0, 0, 2, 2, 4), [True, True, True, False, True]),  # evenly
        (made(2, 5), (0, 0, 90, 90, 90), [True, True, True, True, False]),  # never above max
        (made(1), (0, 25, 29, 35), [True, True, False, True]),
        (made(3, 3, 1.0), (0, 0, 0, 1 / 3, 2 / 3), [True] * 5),  # fractions are no trap
    ],
)
def test_a_bucket(limit, times, passes):
    assert spent(limit, *times) == passes


GOLD, TIN, BOB = (("tier", "gold"),), (("tier", "tin"),), (("user", "bob"),)


def test_descriptors_have_buckets_of_their_own():
    limit = made(3, descriptors=((GOLD, Bucket(1, 1, 10.0)),))
    assert spent(limit, 0, 0, found=[GOLD]) == [True, False]
    assert spent(limit, 0, 0, 0, 0, found=[TIN]) == [True, True, True, False]
    only = made(0, descriptors=((GOLD, Bucket(1, 1, 10.0)),), always_default=False)
    assert spent(only, 0, 0, found=[GOLD]) == [True, False]


def test_an_entry_without_a_value_stands_for_any_and_each_has_a_bucket():
    limit = made(9, descriptors=(((("user", ""),), Bucket(1, 1, 10.0)), (BOB, Bucket(2, 1, 10.0))))
    slots = Memory()

    def passes(name):
        return spend(limit, "here", [Found((("user", name),))], slots, 0.0).passes

    assert [passes(name) for name in ("amy", "amy", "eve", "bob", "bob", "bob")] == [
        True, False, True, True, True, False,
    ]  # fmt: skip


def test_the_slowest_bucket_comes_first_and_is_the_one_that_is_told():
    slow, fast = Bucket(5, 1, 60.0), Bucket(2, 1, 30.0)
    limit = made(10, descriptors=((TIN, fast), (GOLD, slow)))
    slots, found = Memory(), [Found(TIN), Found(GOLD)]
    verdicts = [spend(limit, "here", found, slots, 0.0) for _ in range(3)]
    assert verdicts == [(True, 5, 4, 0), (True, 5, 3, 0), (False, 2, 0, 30)]
    assert spend(limit, "here", [Found(GOLD)], slots, 0.0) == (True, 5, 1, 0)  # it was asked first
    assert spend(limit, "here", [], slots, 0.0).remaining == 10 - 2 - 1 - 1  # what passed


def test_a_request_may_cost_several_tokens():
    limit = made(10, descriptors=((GOLD, Bucket(7, 1, 60.0)),))
    slots = Memory()
    verdicts = [spend(limit, "here", [Found(GOLD, 3)], slots, 0.0) for _ in range(3)]
    assert [(v.passes, v.remaining) for v in verdicts] == [(True, 4), (True, 1), (False, 1)]


def test_who_is_called_and_what_is_configured_have_buckets_of_their_own():
    slots = Memory()
    assert spend(made(1), "here", [], slots, 0).passes
    assert not spend(made(1), "here", [], slots, 1).passes
    assert spend(made(1), "there", [], slots, 1).passes
    assert spend(made(2), "here", [], slots, 1).passes


def test_an_envoy_filter_with_a_local_limit():
    found, problems = limits(http_filter(local(enable_x_ratelimit_headers="DRAFT_VERSION_03")))
    assert problems == ()
    ((_, limit),) = found.local(9080, "any")
    assert (limit.bucket, limit.enabled, limit.enforced) == (Bucket(2, 1, 60.0), 1.0, 1.0)
    slots = Memory()
    for _ in range(2):
        spend(limit, "here", [], slots, 0.0)
    verdict = spend(limit, "here", [], slots, 12.5)
    reply = refusal(limit, verdict)
    assert (reply.status, reply.body, reply.flag) == (429, "local_rate_limited", "RL")
    assert reply.headers == (
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "48"),
    )


def test_routes_and_ports_come_before_the_filter():
    per = {"typed_per_filter_config": {LOCAL: {"value": local(7), "@type": "x/TypedStruct"}}}
    one = {"typed_per_filter_config": {LOCAL: local(9)}}
    found, problems = limits(http_filter(local(2)), on_route(per), on_route(one, name="slow"))
    assert problems == ()
    most = [found.local(port, route)[0][1].bucket.most for port, route in
            ((80, ""), (9080, ""), (9080, "slow"))]  # fmt: skip
    assert most == [2, 7, 9]


def test_one_missing_entry_drops_the_descriptor():
    actions = [
        {"remote_address": {}},
        {"request_headers": {"header_name": "x", "descriptor_key": "x"}},
    ]
    read = read_rate_limits([{"actions": actions}, {"actions": actions[:1]}], "f")
    assert descriptors(read, 0, request(), "c") == (Found((("remote_address", "10.0.9.9"),)),)
    assert descriptors(read, 1, request(), "c") == ()


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
    assert len(found.rules(9080, "")) == 1
    assert found.rules(80, "") == ()


def key(name):
    return [{"actions": [{"generic_key": {"descriptor_value": name}}]}]


@pytest.mark.parametrize(
    ("route", "names"),
    [
        (None, ["port"]),
        ({"rate_limits": key("route")}, ["route"]),  # a route's replace the port's
        ({"rate_limits": key("route"), "include_vh_rate_limits": True}, ["port", "route"]),
    ],
)
def test_a_route_has_its_own_rules_or_those_of_its_port(route, names):
    of_port = on_route({"rate_limits": key("port")}) | {"applyTo": "VIRTUAL_HOST"}
    patches = [of_port] if route is None else [of_port, on_route({"route": route}, name="slow")]
    found, problems = limits(*patches)
    assert problems == ()
    told = descriptors(found.rules(9080, "slow"), 0, request(), "c")
    assert [one.entries[0][1] for one in told] == names
    assert [one.entries[0][1] for one in descriptors(found.rules(9080, ""), 0, request(), "c")] == [
        "port"
    ]


@pytest.mark.parametrize(
    ("vh", "names"),
    [("OVERRIDE", ["route"]), ("INCLUDE", ["port", "route"]), ("IGNORE", ["route"])],
)
def test_a_filter_may_want_the_rules_of_the_port_beside_those_of_the_route(vh, names):
    of_port = on_route({"rate_limits": key("port")}) | {"applyTo": "VIRTUAL_HOST"}
    of_route = on_route({"route": {"rate_limits": key("route")}}, name="slow")
    found, problems = limits(http_filter(local(vh_rate_limits=vh)), of_port, of_route)
    assert problems == ()
    ((_, limit),) = found.local(9080, "slow")
    told = descriptors(found.rules(9080, "slow", limit.vh), 0, request(), "c")
    assert [one.entries[0][1] for one in told] == names
    told = descriptors(found.rules(9080, "", limit.vh), 0, request(), "c")
    assert len(told) == (vh != "IGNORE")


COUNTED = "envoy.filters.http.ratelimit"


def test_a_route_may_have_a_domain_and_rules_of_its_own_or_no_limit():
    own = {"domain": "route", "vh_rate_limits": "IGNORE", "rate_limits": key("own")}
    off = {"@type": "x/envoy.config.route.v3.FilterConfig", "disabled": True}
    found, problems = limits(
        http_filter(GLOBAL | {"filter_enforced": {"default_value": {"numerator": 5}}}, COUNTED),
        http_filter(local(2)),
        on_route({"typed_per_filter_config": {COUNTED: own}}, name="own"),
        on_route({"typed_per_filter_config": {COUNTED: off, LOCAL: off}}, name="off"),
    )
    assert problems == ()
    (limit,) = found.counted()
    assert (limit.enabled, limit.enforced, limit.deny_on_error) == (1.0, 0.05, 1.0)
    ours = found.of_route(9080, "own")
    assert (ours.domain, ours.vh, len(ours.rules)) == ("route", Beside.IGNORE, 1)
    assert found.of_route(9080, "off").disabled
    assert not found.of_route(9080, "").disabled
    assert [found.local(9080, name)[0][1].enabled for name in ("off", "")] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("patch", "fields"),
    [
        (http_filter(local(local_cluster_rate_limit={})), ["local_cluster_rate_limit"]),
        (http_filter(local(local_rate_limit_per_downstream_connection=True)),
         ["local_rate_limit_per_downstream_connection"]),
        (http_filter(local(local_rate_limit_per_downstream_connection=False)), []),
        (http_filter(GLOBAL | {"request_type": "internal"}, COUNTED), ["request_type"]),
        (http_filter(GLOBAL | {"request_type": "both"}, COUNTED), []),
        (http_filter(local(rate_limits=[key("k")[0] | {"apply_on_stream_done": True}])),
         ["rate_limits.apply_on_stream_done"]),
    ],
)  # fmt: skip
def test_fields_without_effect_are_named_and_the_rest_holds(patch, fields):
    found, problems = limits(patch)
    assert [one.field.removeprefix("spec.configPatches[0].patch.value.") for one in problems] == (
        fields
    )
    assert found.local(9080, "") or list(found.counted())


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        (http_filter(local(vh_rate_limits="SOME")),
         "spec.configPatches[0].patch.value.vh_rate_limits"),
        (http_filter(local(filter_enabled={"default_value": {"denominator": "DOZEN"}})),
         "spec.configPatches[0].patch.value.filter_enabled.denominator"),
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


def test_limits_of_bodies():
    buffer = "envoy.filters.http.buffer"
    wide = http_filter({"max_request_bytes": 100}, buffer)
    port = on_route({"typed_per_filter_config": {buffer: {"buffer": {"maxRequestBytes": 50}}}})
    route = on_route({"typed_per_filter_config": {buffer: {"disabled": True}}}, name="up")
    found, _ = limits(wide, port, route)
    assert [found.body(80, ""), found.body(9080, ""), found.body(9080, "up")] == [100, 50, None]
    assert limits(wide, http_filter({"max_request_bytes": 7}, buffer))[0].body(80, "") == 7
    assert limits(http_filter({"max_request_bytes": 0}, buffer))[0].body(80, "") is None
