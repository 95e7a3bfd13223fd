"""What an EnvoyFilter's status says of patches that waypoints do not follow."""

from __future__ import annotations

import pytest

from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import gateway, gateway_class, meta, namespace

READY = ("Hostname", "wp.shop.svc.cluster.local")


def http_filter(name):
    return {"applyTo": "HTTP_FILTER", "patch": {"value": {"name": f"envoy.filters.http.{name}"}}}


def at(place, value):
    return {"applyTo": place, "patch": {"value": value}}


LIMIT, BUFFER, LUA = http_filter("local_ratelimit"), http_filter("buffer"), http_filter("lua")
PER_ROUTE = at("HTTP_ROUTE", {"typed_per_filter_config": {"envoy.filters.http.buffer": {}}})
ACTIONS = at("VIRTUAL_HOST", {"rate_limits": [{}]})
ROUTE_ACTIONS = at("HTTP_ROUTE", {"route": {"rateLimits": [{}]}})
HEADERS = at("NETWORK_FILTER", {"typed_config": {"max_request_headers_kb": 96}})
MANAGER = {"name": "envoy.filters.network.http_connection_manager"}
IDLE = at("NETWORK_FILTER", MANAGER | {"typed_config": {"stream_idle_timeout": "9s"}})
DURATION = at("NETWORK_FILTER", MANAGER | {"typedConfig": {"@type": "x/TypedStruct", "value": {
    "commonHttpProtocolOptions": {"maxStreamDuration": "9s"}}}})  # fmt: skip
ADDRESS = at("NETWORK_FILTER", MANAGER | {"typed_config": {"use_remote_address": True}})
LISTENER = at("LISTENER", {"per_connection_buffer_limit_bytes": 1})
VHOST = at("VIRTUAL_HOST", {"request_headers_to_add": []})


@pytest.mark.parametrize(
    ("patches", "met", "reason", "void"),
    [
        ([LIMIT, BUFFER, PER_ROUTE, ACTIONS, ROUTE_ACTIONS], True, "Accepted", []),
        ([LIMIT, LUA], True, "PartiallyInvalid", ["configPatches[1] (HTTP_FILTER)"]),
        ([LUA, HEADERS], False, "Invalid", ["configPatches[0]", "[1] (NETWORK_FILTER)"]),
        ([IDLE, DURATION], True, "Accepted", []),
        ([IDLE, ADDRESS], True, "PartiallyInvalid", ["configPatches[1] (NETWORK_FILTER)"]),
        ([LISTENER], False, "Invalid", ["configPatches[0] (LISTENER)"]),
        ([VHOST], False, "Invalid", ["configPatches[0] (VIRTUAL_HOST)"]),
        (["x", {}, {"patch": 3}, at("HTTP_FILTER", 3)], False, "Invalid", ["(no applyTo)"]),
        ([], True, "Accepted", []),
    ],
)
def test_status(patches, met, reason, void):
    index = Index()
    waypoint = gateway("wp", "shop", READY)
    index.load(
        {
            "Namespace": [namespace("shop")],
            "GatewayClass": [gateway_class()],
            "Gateway": [waypoint],
        }
    )
    ref = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "wp"}
    spec = {"targetRefs": [ref], "configPatches": patches}
    changes = index.apply("EnvoyFilter", {"metadata": meta("limits", "shop"), "spec": spec})
    (said,) = index.wanted(ObjectRef("EnvoyFilter", ObjectKey("shop", "limits")))
    assert (said.met, said.reason) == (met, reason)
    assert all(one in said.message for one in void)
    # The author is told of each of them.
    told = [one.text for one in changes.remarks if "no effect" in one.text]
    assert bool(told) == bool(void)
