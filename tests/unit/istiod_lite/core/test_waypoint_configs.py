"""Which waypoints get tokens' rules, telemetry and the mesh configuration."""

from __future__ import annotations

import pytest

from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    mesh_config,
    meta,
    namespace,
    service,
)

READY = ("Hostname", "wp.shop.svc.cluster.local")


def made(kind, name, where, **spec):
    return {"metadata": meta(name, where), "spec": spec}


@pytest.fixture
def index():
    found = Index()
    bound = service("web", "apps", "10.96.0.1", labels={"istio.io/use-waypoint": "wp",
                    "istio.io/use-waypoint-namespace": "shop"})  # fmt: skip
    found.load(
        {
            "Namespace": [namespace("shop"), namespace("apps"), namespace("other")],
            "GatewayClass": [gateway_class()],
            "Gateway": [
                gateway("wp", "shop", READY, allowed={"from": "All"}),
                gateway("far", "other", READY),
            ],
            "Service": [bound],
        }
    )
    return found


def holders(index):
    names = (("shop", "wp"), ("other", "far"))
    return {name for ns, name in names if index.configs_for_waypoint(ns, name)}


WEB = [{"kind": "Service", "name": "web"}]


@pytest.mark.parametrize(
    ("kind", "where", "spec", "waypoints"),
    [
        ("RequestAuthentication", "apps", {"targetRefs": WEB}, {"wp"}),
        ("RequestAuthentication", "apps", {}, set()),
        ("RequestAuthentication", "apps", {"selector": {"matchLabels": {"a": "b"}}}, set()),
        ("EnvoyFilter", "apps", {"targetRefs": WEB}, {"wp"}),
        ("EnvoyFilter", "shop", {}, set()),
        ("Telemetry", "apps", {"targetRefs": WEB}, {"wp"}),
        ("Telemetry", "apps", {}, {"wp"}),  # the namespace of a service
        ("Telemetry", "shop", {}, {"wp"}),
        ("Telemetry", "istio-system", {}, {"wp", "far"}),
        ("Telemetry", "shop", {"selector": {"matchLabels": {"a": "b"}}}, set()),
    ],
)
def test_who_gets_what(index, kind, where, spec, waypoints):
    index.apply(kind, made(kind, "x", where, **spec))
    assert holders(index) == waypoints
    index.remove(kind, where, "x")
    assert holders(index) == set()


def test_telemetry_follows_the_services_of_its_namespace(index):
    index.remove("Service", "apps", "web")
    index.apply("Telemetry", made("Telemetry", "x", "apps"))
    assert holders(index) == set()
    index.apply("Service", service("web", "apps", "10.96.0.1", labels={
        "istio.io/use-waypoint": "wp", "istio.io/use-waypoint-namespace": "shop"}))  # fmt: skip
    assert holders(index) == {"wp"}


def test_every_waypoint_gets_the_mesh_configuration(index):
    index.apply("MeshConfig", mesh_config("accessLogFile: /dev/stdout"))
    assert holders(index) == {"wp", "far"}
    (found,) = index.configs_for_waypoint("shop", "wp").values()
    assert (found.kind, found.object["spec"]) == ("MeshConfig", {"accessLogFile": "/dev/stdout"})


def test_a_status_says_who_verifies_tokens(index):
    index.apply("RequestAuthentication", made("RequestAuthentication", "x", "apps", targetRefs=WEB))
    ((ref, wanted),) = [(r, index.wanted(r)) for r in index.all_statuses() if "Auth" in r.kind]
    assert ref.kind == "RequestAuthentication"
    assert [(one.type, one.met) for one in wanted] == [("WaypointAccepted", True)]
