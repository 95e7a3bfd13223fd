"""Policies that nobody would enforce are remarked upon, and the remark goes when it is mended."""

import pytest

from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import gateway, gateway_class, namespace, policy, service

READY = ("Hostname", "wp.shop.svc.cluster.local")


def target(kind, name, where="shop", **more):
    return policy("p", where, {"targetRefs": [{"kind": kind, "name": name, **more}], "rules": [{}]})


@pytest.fixture
def index():
    made = Index()
    made.load(
        {
            "Namespace": [namespace("shop")],
            "GatewayClass": [gateway_class()],
            "Gateway": [gateway("wp", "shop", READY)],
            "Service": [
                service("bound", "shop", "10.96.0.1", labels={"istio.io/use-waypoint": "wp"}),
                service("early", "shop", "10.96.0.2", labels={"istio.io/use-waypoint": "later"}),
                service("bare", "shop", "10.96.0.3"),
            ],
        }
    )
    return made


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (target("Service", "bound"), None),
        (target("Gateway", "wp"), None),
        (target("GatewayClass", "istio-waypoint", "istio-system"), None),
        (target("Service", "bare"), "uses no waypoint"),
        (target("Service", "early"), "WaypointIsNotReady"),
        (target("Service", "gone"), "there is no Service shop/gone"),
        (target("Gateway", "gone"), "there is no waypoint"),
        (target("GatewayClass", "istio-waypoint"), "belongs into istio-system"),
        (target("GatewayClass", "other", "istio-system"), "there is no waypoint class"),
        (target("Pod", "x"), "not supported"),
        (target("Service", "bound", namespace="other"), "its own namespace"),
    ],
)
def test_remarks(index, made, text):
    remarks = index.apply("AuthorizationPolicy", made).remarks
    assert [text in one.text for one in remarks] == ([True] if text else [])


def test_a_remark_goes_when_the_waypoint_comes(index):
    index.apply("AuthorizationPolicy", target("Service", "early"))
    assert len(index.remarks()) == 1
    assert index.apply("Gateway", gateway("later", "shop", READY)).remarks == ()
    assert index.remarks() == ()
    assert len(index.remove("Gateway", "shop", "later").remarks) == 1


def test_the_same_policy_again_keeps_its_remark(index):
    for _ in range(2):
        index.apply("AuthorizationPolicy", target("Service", "bare"))
        assert len(index.remarks()) == 1
