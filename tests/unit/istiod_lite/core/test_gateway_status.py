"""Status of Gateways of our classes."""

import pytest

from ambient.kube.core import objects
from istiod_lite.core import gateway_status as made
from istiod_lite.core.bindings import Bindings
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.gateway_status import Standing
from istiod_lite.core.waypoints import Binding, Reason
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


def bindings(*pairs):
    made_ = Bindings()
    for (kind, namespace, name), binding in pairs:
        made_.put(ObjectRef(kind, ObjectKey(namespace, name)), binding)
    return made_


WP = ObjectKey("shop", "wp")
BOUND = Binding(None, WP, Reason.ACCEPTED)
PAST = Binding(None, WP, Reason.OTHER_TRAFFIC)


@pytest.mark.parametrize(
    ("pairs", "want"),
    [
        ([], ("False", "NotUsed", "Bound: nothing")),
        ([(("Service", "shop", "web"), BOUND)], ("True", "Used", "Bound: Service shop/web")),
        (
            [(("Service", "shop", "web"), BOUND), (("WorkloadEntry", "shop", "vm"), PAST)],
            (
                "True",
                "PartlyBypassed",
                "Bound: Service shop/web. "
                "Asked for, but gone past: WorkloadEntry shop/vm (UnsupportedTrafficType)",
            ),
        ),
        (
            [(("Service", "shop", "web"), PAST)],
            (
                "False",
                "Bypassed",
                "Bound: nothing. "
                "Asked for, but gone past: Service shop/web (UnsupportedTrafficType)",
            ),
        ),
        # Pods count by namespace, and what a namespace's label does not mean for them not at all.
        (
            [(("Pod", "shop", f"p{n}"), BOUND) for n in range(3)],
            ("True", "Used", "Bound: Pods of shop"),
        ),
        (
            [(("Pod", "shop", "p"), PAST._replace(inherited=True))],
            ("False", "NotUsed", "Bound: nothing"),
        ),
        (
            [(("Service", "shop", f"s{n}"), BOUND) for n in range(7)],
            (
                "True",
                "Used",
                "Bound: Service shop/s0, Service shop/s1, Service shop/s2, Service shop/s3, "
                "Service shop/s4 and 2 more",
            ),
        ),
    ],
)
def test_pain_17_who_is_bound_and_who_goes_past(pairs, want):
    assert made.usage(WP, bindings(*pairs)) == want


def test_attached_routes_and_bad_parameters_are_told():
    status = of_waypoint(read(), "10.96.0.9", 1, routes=3, problem="no such ConfigMap")
    assert status["listeners"][0]["attachedRoutes"] == 3
    assert conditions(status)["Accepted"] == ("False", "InvalidParameters")
    assert conditions(status)["Programmed"] == ("True", "Programmed")


@pytest.mark.parametrize(
    ("kind", "want"),
    [("Hostname", ["Hostname"]), ("IPAddress", ["IPAddress"]), ("x", ["Hostname", "IPAddress"])],
)
def test_the_type_of_addresses_may_be_chosen(kind, want):
    raw = gateway("wp", "shop")
    raw["metadata"]["annotations"] = {"networking.istio.io/address-type": kind}
    status = of_waypoint(objects.decode(raw, objects.Gateway), "10.96.0.9", 1)
    assert [one["type"] for one in status["addresses"]] == want


def test_a_gateway_that_runs_elsewhere():
    remote = read(gatewayClassName="istio-remote", addresses=[{"value": "198.51.100.1"}])
    status = made.of_remote(remote, NOW)
    assert status["addresses"] == [{"type": "IPAddress", "value": "198.51.100.1"}]
    assert conditions(status)["Programmed"] == ("True", "Programmed")


def test_a_condition_whose_status_stays_keeps_its_time():
    raw = gateway("wp", "shop")
    raw["status"] = of_waypoint(read(), "10.96.0.9", 1)
    again = of_waypoint(objects.decode(raw, objects.Gateway), "", 0, "2026-02-02T00:00:00Z")
    times = {one["type"]: one["lastTransitionTime"] for one in again["conditions"]}
    assert times == {
        "Accepted": NOW,
        "Programmed": "2026-02-02T00:00:00Z",
        "ambient-mesh/InUse": NOW,
    }
