"""Status of Gateways of our classes."""

import pytest

from ambient.kube.core import objects
from istiod_lite.core import gateway_status as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.gateway_status import Standing
from tests.unit.istiod_lite.objects import gateway

FACTS = MeshFacts()
HOSTNAME = ("Hostname", "wp.shop.svc.cluster.local")
NOW = "2026-01-01T00:00:00Z"


def read(*addresses, **spec):
    raw = gateway("wp", "shop", *addresses)
    raw["spec"] |= spec
    return objects.decode(raw, objects.Gateway)


def conditions(status):
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def of_waypoint(found, ip, ready, now=NOW, **more):
    return made.of_waypoint(found, Standing(cluster_ip=ip, ready=ready, **more), FACTS, now)


@pytest.mark.parametrize(
    ("addresses", "ip", "ready", "condition", "count"),
    [
        ((), "", 0, ("False", "AddressNotUsable"), 0),
        ((), "10.96.0.9", 0, ("False", "AddressNotAssigned"), 0),
        ((), "10.96.0.9", 1, ("True", "Programmed"), 2),
        # Once given they stay: without them clients would go past the waypoint's policies.
        ((HOSTNAME,), "10.96.0.9", 0, ("True", "Programmed"), 2),
        ((HOSTNAME,), "", 0, ("False", "AddressNotUsable"), 1),
    ],
)
def test_status(addresses, ip, ready, condition, count):
    status = of_waypoint(read(*addresses), ip, ready)
    assert conditions(status)["Programmed"] == condition
    assert len(status["addresses"]) == count


def test_wrong_listeners_are_explained_and_do_not_stop_it():
    wrong = read(listeners=[{"name": "web", "port": 80, "protocol": "HTTP"}])
    status = of_waypoint(wrong, "10.96.0.9", 1)
    assert conditions(status) == {
        "Accepted": ("True", "ListenersNotValid"),
        "Programmed": ("True", "Programmed"),
        "ambient-mesh/InUse": ("False", "NotUsed"),
    }
    assert status["listeners"][0]["conditions"][0]["reason"] == "UnsupportedProtocol"


def test_a_status_that_says_the_same_is_not_written_again():
    status = of_waypoint(read(), "10.96.0.9", 1)
    raw = gateway("wp", "shop")
    raw["status"] = status
    again = objects.decode(raw, objects.Gateway)
    later = of_waypoint(again, "10.96.0.9", 1, "2026-02-02T00:00:00Z")
    assert made.says_the_same(again, later)
    assert not made.says_the_same(read(), later)


@pytest.mark.parametrize(
    ("controller", "accepted", "want"),
    [
        ("istio.io/mesh-controller", None, True),
        ("istio.io/mesh-controller", "False", True),
        ("istio.io/mesh-controller", "True", False),
        ("somebody/else", None, False),
    ],
)
def test_class_status(controller, accepted, want):
    found = {"metadata": {}, "spec": {"controllerName": controller}}
    if accepted:
        found["status"] = {"conditions": [{"type": "Accepted", "status": accepted}]}
    assert (made.class_status(found, NOW) is not None) is want
