"""A policy's status: what node tunnels made of it, and which waypoint enforces it."""

import pytest

from ambient.api.policy import Action
from ambient.kube.core.objects import AuthorizationPolicy, decode
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.policies import translate
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    namespace,
    pod,
    policy,
    service,
    service_entry,
)

WEB = "cluster.local/ns/shop/sa/web"
FROM = {"from": [{"source": {"principals": [WEB]}}]}
GET = {"to": [{"operation": {"methods": ["GET"]}}]}
MIXED = {"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]}
HEADER = {"when": [{"key": "request.headers[x]", "values": ["1"]}]}


FACTS = MeshFacts()


def translated(spec, facts=FACTS, **more):
    return translate(decode(policy("p", "shop", spec, **more), AuthorizationPolicy), facts)


@pytest.mark.parametrize(
    ("spec", "met", "reason", "words"),
    [
        ({"rules": [FROM]}, True, "Accepted", "Node tunnels enforce the policy"),
        ({"rules": [{}]}, True, "Accepted", ""),
        ({"action": "DENY", "rules": [FROM]}, True, "Accepted", ""),
        ({"action": "AUDIT", "rules": [FROM]}, False, "UnsupportedValue", "AUDIT"),
        ({"action": "CUSTOM", "rules": [FROM]}, False, "UnsupportedValue", "CUSTOM"),
        ({"action": "PERMIT"}, True, "UnsupportedValue", "nothing is allowed"),
        ({"rules": [GET]}, True, "UnsupportedValue", "(methods)"),
        ({"rules": [FROM, {**GET, **HEADER}]}, True, "UnsupportedValue",
         "(methods, request.headers[x])"),
        ({"action": "DENY", "rules": [GET]}, True, "UnsupportedValue", "nothing of this DENY"),
        ({"action": "DENY", "rules": [MIXED]}, True, "UnsupportedValue", "more is denied"),
        ({"action": "DENY", "rules": [{**FROM, **HEADER}]}, True, "UnsupportedValue",
         "nothing of this DENY"),
        ({"action": "DENY", "rules": [{}, GET]}, True, "UnsupportedValue", "more is denied"),
        ({"rules": [{"to": [{"operation": {"ports": ["x"]}}]}]}, True, "UnsupportedValue",
         "'x' is no port"),
    ],
)  # fmt: skip
def test_pain_20_a_policy_says_what_node_tunnels_make_of_it(spec, met, reason, words):
    condition = translated(spec).condition
    assert (condition.type, condition.met, condition.reason) == ("ZtunnelAccepted", met, reason)
    assert words in condition.message


def test_pain_20_a_policy_for_waypoints_is_none_of_the_tunnels_business():
    assert translated({"targetRefs": [{"kind": "Gateway", "name": "wp"}]}).condition is None


@pytest.mark.parametrize(
    ("rules", "left"),
    [([FROM, GET], 1), ([GET], 0), ([FROM, MIXED], 1), ([{**FROM, **HEADER}], 0)],
)
def test_pain_20_an_allow_with_http_fields_gets_stricter_never_wider(rules, left):
    assert len(translated({"rules": rules}).authorization.groups) == left


DRY = {"annotations": {"istio.io/dry-run": "true"}}


def test_pain_48_a_dry_run_is_sent_to_be_seen_and_says_so():
    found = translated({"action": "DENY", "rules": [FROM]}, **DRY)
    assert found.authorization.dry_run
    assert (found.condition.met, found.condition.reason) == (True, "Accepted")
    assert "log what it would deny, and let it pass" in found.condition.message


def test_pain_48_tunnels_that_would_enforce_a_dry_run_are_not_told():
    found = translated({"rules": [FROM]}, MeshFacts(send_dry_run=False), **DRY)
    assert found.authorization is None
    assert (found.condition.met, found.condition.reason) == (False, "UnsupportedValue")


def test_pain_48_a_dry_run_that_allows_refuses_nobody_and_admits_no_waypoint():
    index = small_mesh()
    index.apply("AuthorizationPolicy", policy("p", "shop", {"rules": [FROM]}, **DRY))
    assert index.workloads["Kubernetes//Pod/shop/bound-0"].authorization_policies == ()


ATTRIBUTES = {
    "principals": ("from", {"principals": [WEB]}),
    "notPrincipals": ("from", {"notPrincipals": [WEB]}),
    "namespaces": ("from", {"namespaces": ["x"]}),
    "notNamespaces": ("from", {"notNamespaces": ["x"]}),
    "serviceAccounts": ("from", {"serviceAccounts": ["x/y"]}),
    "notServiceAccounts": ("from", {"notServiceAccounts": ["y"]}),
    "ipBlocks": ("from", {"ipBlocks": ["10.0.0.0/8"]}),
    "notIpBlocks": ("from", {"notIpBlocks": ["10.0.0.1"]}),
    "requestPrincipals": ("from", {"requestPrincipals": ["x"]}),
    "notRequestPrincipals": ("from", {"notRequestPrincipals": ["x"]}),
    "remoteIpBlocks": ("from", {"remoteIpBlocks": ["10.0.0.0/8"]}),
    "notRemoteIpBlocks": ("from", {"notRemoteIpBlocks": ["10.0.0.0/8"]}),
    "ports": ("to", {"ports": ["80"]}),
    "notPorts": ("to", {"notPorts": ["80"]}),
    "hosts": ("to", {"hosts": ["x"]}),
    "notHosts": ("to", {"notHosts": ["x"]}),
    "methods": ("to", {"methods": ["GET"]}),
    "notMethods": ("to", {"notMethods": ["GET"]}),
    "paths": ("to", {"paths": ["/x"]}),
    "notPaths": ("to", {"notPaths": ["/x"]}),
    "source.ip": ("when", {"key": "source.ip", "values": ["10.0.0.1"]}),
    "source.namespace": ("when", {"key": "source.namespace", "values": ["x"]}),
    "source.principal": ("when", {"key": "source.principal", "values": ["x"]}),
    "destination.ip": ("when", {"key": "destination.ip", "values": ["10.0.0.1"]}),
    "destination.port": ("when", {"key": "destination.port", "notValues": ["80"]}),
    "remote.ip": ("when", {"key": "remote.ip", "values": ["10.0.0.1"]}),
    "source.serviceAccount": ("when", {"key": "source.serviceAccount", "values": ["x"]}),
    "connection.sni": ("when", {"key": "connection.sni", "values": ["x"]}),
    "request.auth.claims[x]": ("when", {"key": "request.auth.claims[x]", "values": ["x"]}),
}
SEEN_BY_TUNNELS = {
    "principals", "notPrincipals", "namespaces", "notNamespaces", "serviceAccounts",
    "notServiceAccounts", "ipBlocks", "notIpBlocks", "ports", "notPorts", "source.ip",
    "source.namespace", "source.principal", "destination.ip", "destination.port",
}  # fmt: skip


def rule(where, value):
    if where == "when":
        return {"when": [value]}
    return {where: [{"source" if where == "from" else "operation": value}]}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_alone(name):
    kept = name in SEEN_BY_TUNNELS
    allow = translated({"rules": [rule(*ATTRIBUTES[name])]})
    assert len(allow.authorization.groups) == kept
    deny = translated({"action": "DENY", "rules": [rule(*ATTRIBUTES[name])]})
    ((clause,),) = deny.authorization.groups
    assert (clause[0] != type(clause[0])()) is kept
    assert bool(allow.remarks) is bool(deny.remarks) is not kept


def test_rules_keep_their_order():
    found = translated({"rules": [rule(*one) for one in ATTRIBUTES.values()]}).authorization
    alone = [
        translated({"rules": [rule(*ATTRIBUTES[name])]}).authorization.groups[0]
        for name in ATTRIBUTES
        if name in SEEN_BY_TUNNELS
    ]
    assert list(found.groups) == alone
    assert found.action is Action.ALLOW


# At waypoints.

READY = ("Hostname", "wp.shop.svc.cluster.local")


def small_mesh():
    index = Index()
    use = {"istio.io/use-waypoint": "wp"}
    index.load(
        {
            "Namespace": [namespace("shop"), namespace("istio-system")],
            "GatewayClass": [gateway_class(), gateway_class("nginx", "nginx.org/x")],
            "Gateway": [gateway("wp", "shop", READY), gateway("early", "shop")],
            "Service": [
                service("bound", "shop", "10.96.0.1", labels=use, selector={"app": "bound"}),
                service("bare", "shop", "10.96.0.2"),
                service("late", "shop", "10.96.0.3", labels={"istio.io/use-waypoint": "early"}),
            ],
            "ServiceEntry": [
                service_entry("bound", "shop", "a.x", labels=use),
                service_entry("bare", "shop", "b.x"),
            ],
            "Pod": [pod("bound-0", "shop", "10.0.0.1", labels={"app": "bound"})],
        }
    )
    return index


def target(kind, name, **more):
    groups = {"ServiceEntry": "networking.istio.io", "Service": ""}
    return {
        "kind": kind,
        "name": name,
        "group": groups.get(kind, "gateway.networking.k8s.io"),
        **more,
    }


BOUND, BARE = target("Service", "bound"), target("Service", "bare")


@pytest.mark.parametrize(
    ("where", "targets", "met", "reason", "words"),
    [
        ("shop", [BOUND], True, "Accepted", "Waypoint shop/wp enforces the policy for Service"),
        ("shop", [BARE], False, "AncestorNotBound", "uses no waypoint"),
        ("shop", [target("Service", "late")], False, "AncestorNotBound", "WaypointIsNotReady"),
        ("shop", [target("Service", "gone")], False, "TargetNotFound", "there is no Service"),
        ("shop", [target("ServiceEntry", "bound")], True, "Accepted", "ServiceEntry shop/bound"),
        ("shop", [target("ServiceEntry", "bare")], False, "AncestorNotBound", "no waypoint"),
        ("shop", [target("ServiceEntry", "gone")], False, "TargetNotFound", "there is no"),
        ("shop", [target("Gateway", "wp")], True, "Accepted", "Waypoint shop/wp"),
        ("shop", [target("Gateway", "early")], False, "AncestorNotBound", "not ready"),
        ("shop", [target("Gateway", "gone")], False, "TargetNotFound", "there is no waypoint"),
        ("istio-system", [target("GatewayClass", "istio-waypoint")], True, "Accepted", "All"),
        ("istio-system", [target("GatewayClass", "nginx")], False, "TargetNotFound", "class nginx"),
        ("istio-system", [target("GatewayClass", "gone")], False, "TargetNotFound", "class gone"),
        ("shop", [target("GatewayClass", "istio-waypoint")], False, "Invalid", "istio-system"),
        ("shop", [target("Pod", "x")], False, "Invalid", "not supported"),
        ("shop", [target("Service", "bound", group="x")], False, "Invalid", "not supported"),
        ("shop", [target("Service", "bound", namespace="o")], False, "Invalid", "own namespace"),
        ("shop", [BOUND, target("Gateway", "wp")], True, "Accepted", "; "),
        ("shop", [BOUND, BARE], True, "PartiallyInvalid", "Service.core:shop/bare: "),
        ("shop", [BARE, target("Gateway", "x")], False, "Invalid",
         "Gateway.gateway.networking.k8s.io:shop/x: "),
    ],
)  # fmt: skip
def test_waypoint_accepted(where, targets, met, reason, words):
    index = small_mesh()
    index.apply("AuthorizationPolicy", policy("p", where, {"targetRefs": targets, "rules": [{}]}))
    (found,) = index.wanted(ObjectRef("AuthorizationPolicy", ObjectKey(where, "p")))
    assert (found.type, found.met, found.reason) == ("WaypointAccepted", met, reason)
    assert words in found.message


def test_the_status_follows_the_waypoint():
    index = small_mesh()
    made = policy("p", "shop", {"targetRefs": [target("Service", "late")], "rules": [{}]})
    ref = ObjectRef("AuthorizationPolicy", ObjectKey("shop", "p"))
    index.apply("AuthorizationPolicy", made)
    changes = index.apply("Gateway", gateway("early", "shop", READY))
    assert ref in changes.statuses
    assert index.wanted(ref)[0].met


def test_unreadable_policies_and_objects_say_so_themselves():
    index = small_mesh()
    index.apply("AuthorizationPolicy", policy("p", "shop", {"rules": "all"}))
    (found,) = index.wanted(ObjectRef("AuthorizationPolicy", ObjectKey("shop", "p")))
    assert (found.type, found.reason) == ("ZtunnelAccepted", "UnsupportedValue")
    index.apply("ServiceEntry", service_entry("bad", "shop", "a.x", ports=7))
    (found,) = index.wanted(ObjectRef("ServiceEntry", ObjectKey("shop", "bad")))
    assert (found.type, found.met, found.reason) == ("istio.io/Accepted", False, "Invalid")
    assert "`spec.ports`" in found.message
