"""What routes are told at each of their parents."""

import pytest

from istiod_lite.core import route_status
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    grant,
    namespace,
    route,
    service,
    service_entry,
)

READY = ("Hostname", "wp.shop.svc.cluster.local")
ON_WEB = {"group": "", "kind": "Service", "name": "web"}
ON_GATEWAY = {"kind": "Gateway", "name": "wp"}
TO_WEB = {"name": "web", "port": 80}
HOST = "ext.example.com"


@pytest.fixture
def index():
    made = Index()
    made.load(
        {
            "Namespace": [namespace("shop"), namespace("other")],
            "GatewayClass": [gateway_class()],
            "Gateway": [gateway("wp", "shop", READY), foreign()],
            "Service": [
                service("web", "shop", "10.96.0.1", labels={"istio.io/use-waypoint": "wp"}),
                service("bare", "shop", "10.96.0.2"),
                service("far", "other", "10.96.0.3"),
            ],
            "ServiceEntry": [service_entry("ext", "shop", HOST)],
        }
    )
    return made


def foreign():
    made = gateway("foreign", "shop", READY)
    made["spec"]["gatewayClassName"] = "nginx"
    return made


def told(index, made, kind="HTTPRoute"):
    """Per parent: reasons by condition type."""
    index.apply(kind, made)
    key = ObjectKey(made["metadata"]["namespace"], made["metadata"]["name"])
    return [
        {one.type: one.reason for one in parent.conditions}
        for parent in index.wanted(ObjectRef(kind, key))
    ]


def rules(*backends, filters=()):
    return [{"backendRefs": list(backends), "filters": [{"type": one} for one in filters]}]


@pytest.mark.parametrize(
    ("parent", "accepted", "waypoint"),
    [
        (ON_WEB, "Accepted", "ResolvedWaypoints"),
        ({**ON_WEB, "port": 80}, "Accepted", "ResolvedWaypoints"),
        ({**ON_WEB, "port": 81}, "NoMatchingParent", None),
        ({**ON_WEB, "name": "gone"}, "NoMatchingParent", None),
        ({**ON_WEB, "name": "bare"}, "Accepted", "NoWaypoint"),
        ({"kind": "Service", "name": "web"}, "NoMatchingParent", None),  # without its group
        (
            {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "ext"},
            "Accepted",
            "NoWaypoint",
        ),
        (ON_GATEWAY, "Accepted", None),
        ({**ON_GATEWAY, "sectionName": "mesh"}, "Accepted", None),
        ({**ON_GATEWAY, "sectionName": "other"}, "NoMatchingParent", None),
        ({**ON_GATEWAY, "port": 80}, "NoMatchingParent", None),
    ],
)
def test_accepted_and_by_which_waypoint(index, parent, accepted, waypoint):
    (found,) = told(index, route("r", "shop", parent, rules=rules(TO_WEB)))
    assert (found["Accepted"], found.get("ResolvedWaypoints")) == (accepted, waypoint)
    assert found["ResolvedRefs"] == "ResolvedRefs"


@pytest.mark.parametrize(
    "parent",
    [
        {"kind": "Gateway", "name": "foreign"},
        {"kind": "Gateway", "name": "gone"},
        {"group": "x", "kind": "Service", "name": "web"},
        {"group": "", "kind": "Pod", "name": "web"},
    ],
)
def test_parents_of_others_are_theirs_to_speak_of(index, parent):
    assert told(index, route("r", "shop", parent)) == []


@pytest.mark.parametrize(
    ("allowed", "kinds", "reason"),
    [
        (None, None, "NotAllowedByListeners"),
        ({"from": "All"}, None, "Accepted"),
        ({"from": "None"}, None, "NotAllowedByListeners"),
        ({"from": "All"}, [{"kind": "TCPRoute"}], "NotAllowedByListeners"),
        ({"from": "All"}, [{"kind": "HTTPRoute"}], "Accepted"),
    ],
)
def test_routes_of_other_namespaces_on_a_waypoints_gateway(index, allowed, kinds, reason):
    made = gateway("wp", "shop", READY, allowed=allowed)
    if kinds:
        made["spec"]["listeners"][0]["allowedRoutes"]["kinds"] = kinds
    index.apply("Gateway", made)
    found = told(index, route("r", "other", {**ON_GATEWAY, "namespace": "shop"}))
    assert [one["Accepted"] for one in found] == [reason]
    sent = "HTTPRoute/other/r" in index.configs_for_waypoint("shop", "wp")
    assert sent is (reason == "Accepted")
    assert index.attached_routes(ObjectKey("shop", "wp")) == (reason == "Accepted")


@pytest.mark.parametrize(
    ("listener", "names", "reason"),
    [
        ("", ["a.x"], "Accepted"),
        ("a.x", [], "Accepted"),
        ("a.x", ["a.x"], "Accepted"),
        ("*.x", ["a.x"], "Accepted"),
        ("a.x", ["*.x"], "Accepted"),
        ("*.a.x", ["*.x"], "Accepted"),
        ("a.x", ["b.x"], "NoMatchingListenerHostname"),
        ("*.x", ["a.y"], "NoMatchingListenerHostname"),
    ],
)
def test_hostnames_of_listener_and_route(index, listener, names, reason):
    made = gateway("wp", "shop", READY)
    made["spec"]["listeners"][0]["hostname"] = listener
    index.apply("Gateway", made)
    (found,) = told(index, route("r", "shop", ON_GATEWAY, hostnames=names))
    assert found["Accepted"] == reason


@pytest.mark.parametrize(
    ("backend", "filters", "reason"),
    [
        (TO_WEB, [], "ResolvedRefs"),
        ({"name": "gone", "port": 80}, [], "BackendNotFound"),
        ({"name": "web", "port": 81}, [], "BackendNotFound"),
        ({"name": "web"}, [], "InvalidDestination"),
        ({"name": "web", "kind": "Pod"}, [], "InvalidKind"),
        ({"name": "web", "group": "x", "kind": "Service"}, [], "InvalidKind"),
        ({"name": HOST, "group": "networking.istio.io", "kind": "Hostname"}, [], "ResolvedRefs"),
        ({"name": "no.x", "group": "networking.istio.io", "kind": "Hostname"}, [],
         "BackendNotFound"),
        (TO_WEB, ["ExtensionRef"], "InvalidFilter"),
        (TO_WEB, ["URLRewrite"], "ResolvedRefs"),
        # A mesh route needs no grant: its clients could call the backend themselves.
        ({"name": "far", "namespace": "other", "port": 80}, [], "ResolvedRefs"),
    ],
)  # fmt: skip
def test_references_of_a_mesh_route(index, backend, filters, reason):
    (found,) = told(index, route("r", "shop", ON_WEB, rules=rules(backend, filters=filters)))
    assert found["ResolvedRefs"] == reason


ABROAD = {"name": "far", "namespace": "other", "port": 80}


def calling(kind, field, backend):
    return {"type": kind, field: {"backendRef": backend}}


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (TO_WEB, "ResolvedRefs"),
        ({"name": "gone", "port": 80}, "BackendNotFound"),
        ({"name": "web", "port": 81}, "BackendNotFound"),
        ({"name": "web", "kind": "Pod", "port": 80}, "InvalidKind"),
        (ABROAD, "RefNotPermitted"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "field"), [("RequestMirror", "requestMirror"), ("ExternalAuth", "externalAuth")]
)
def test_references_of_filters(index, kind, field, backend, reason):
    rule = {"backendRefs": [TO_WEB], "filters": [calling(kind, field, backend)]}
    (found,) = told(index, route("r", "shop", ON_GATEWAY, rules=[rule]))
    assert found["ResolvedRefs"] == reason
    sent = index.configs_for_waypoint("shop", "wp")["HTTPRoute/shop/r"].object["spec"]["rules"]
    refused = sent[0]["filters"][0][field]["backendRef"].get("kind") == route_status.REFUSED_KIND
    assert refused is (reason == "RefNotPermitted")
    assert sent[0]["backendRefs"] == [TO_WEB]


@pytest.mark.parametrize(
    ("permit", "reason"),
    [
        (None, "RefNotPermitted"),
        (grant("g", "other", "shop"), "ResolvedRefs"),
        (grant("g", "other", "shop", only="far"), "ResolvedRefs"),
        (grant("g", "other", "shop", only="else"), "RefNotPermitted"),
        (grant("g", "other", "elsewhere"), "RefNotPermitted"),
        (grant("g", "other", "shop", kind="TCPRoute"), "RefNotPermitted"),
        (grant("g", "other", "shop", to="Secret"), "RefNotPermitted"),
        (grant("g", "shop", "shop"), "RefNotPermitted"),
    ],
)
def test_references_to_other_namespaces_from_a_gateways_route(index, permit, reason):
    """What is not permitted is not only said: waypoints get a reference that leads nowhere."""
    made = route("r", "shop", ON_GATEWAY, rules=rules(TO_WEB, ABROAD))
    told(index, made)
    if permit is not None:
        index.apply("ReferenceGrant", permit)
    (found,) = told(index, made)
    assert found["ResolvedRefs"] == reason
    sent = index.configs_for_waypoint("shop", "wp")["HTTPRoute/shop/r"].object["spec"]["rules"]
    kinds = [one.get("kind") for one in sent[0]["backendRefs"]]
    assert kinds == [None, None if reason == "ResolvedRefs" else route_status.REFUSED_KIND]


@pytest.mark.parametrize("kind", ["GRPCRoute", "TCPRoute", "TLSRoute"])
def test_waypoints_act_on_every_kind(index, kind):
    (found,) = told(index, route("r", "shop", ON_WEB, kind=kind, rules=rules(TO_WEB)), kind)
    assert found == {
        "Accepted": "Accepted",
        "ResolvedRefs": "ResolvedRefs",
        "ResolvedWaypoints": "ResolvedWaypoints",
    }


def test_a_consumer_route_is_its_services_waypoints(index):
    (found,) = told(index, route("r", "other", {**ON_WEB, "namespace": "shop"}))
    assert (found["Accepted"], found["ResolvedWaypoints"]) == ("Accepted", "ResolvedWaypoints")
    assert list(index.configs_for_waypoint("shop", "wp")) == ["HTTPRoute/other/r"]


@pytest.mark.parametrize(
    ("backend", "permit", "reason"),
    [
        ({**TO_WEB, "namespace": "shop"}, None, "ResolvedRefs"),  # the Service that it hangs on
        ({"name": "far", "port": 80}, None, "ResolvedRefs"),  # its own namespace's
        ({"name": "bare", "namespace": "shop", "port": 80}, None, "RefNotPermitted"),
        ({"name": "bare", "namespace": "shop", "port": 80}, "Service", "ResolvedRefs"),
        ({"kind": "Hostname", "group": "networking.istio.io", "name": HOST}, None,
         "RefNotPermitted"),
        ({"kind": "Hostname", "group": "networking.istio.io", "name": HOST}, "ServiceEntry",
         "ResolvedRefs"),
        ({"kind": "Hostname", "group": "networking.istio.io",
          "name": "bare.shop.svc.cluster.local"}, None, "RefNotPermitted"),
    ],
)  # fmt: skip
def test_a_consumer_route_makes_the_waypoint_call_nobody_else(index, backend, permit, reason):
    """The waypoint's identity may be let in where the clients are not."""
    made = route("r", "other", {**ON_WEB, "namespace": "shop"}, rules=rules(backend))
    told(index, made)
    if permit is not None:
        granted = grant("g", "shop", "other", to=permit)
        if permit == "ServiceEntry":
            granted["spec"]["to"][0]["group"] = "networking.istio.io"
        index.apply("ReferenceGrant", granted)
    (found,) = told(index, made)
    assert found["ResolvedRefs"] == reason
    sent = index.configs_for_waypoint("shop", "wp")["HTTPRoute/other/r"].object["spec"]["rules"]
    refused = sent[0]["backendRefs"][0].get("kind") == route_status.REFUSED_KIND
    assert refused is (reason == "RefNotPermitted")


def test_the_same_parent_twice(index):
    found = told(index, route("r", "shop", ON_WEB, {**ON_WEB, "port": 80}))
    assert [one["Accepted"] for one in found] == ["Accepted", "ParentRefConflict"]
    assert [one["Accepted"] for one in told(index, route("r", "shop", ON_WEB, ON_WEB))] == [
        "ParentRefConflict"
    ]


def test_a_status_follows_what_it_speaks_of(index):
    made = route("r", "shop", ON_WEB, rules=rules({"name": "late", "port": 80}))
    assert told(index, made)[0]["ResolvedRefs"] == "BackendNotFound"
    ref = ObjectRef("HTTPRoute", ObjectKey("shop", "r"))
    assert index.apply("Service", service("late", "shop", "10.96.0.9")).statuses == {ref}
    assert index.wanted(ref)[0].conditions[1].met
    assert ref in index.remove("Gateway", "shop", "wp").statuses


def test_many_problems_are_counted(index):
    made = route(
        "r", "shop", ON_WEB, rules=rules(*({"name": f"x{n}", "port": 1} for n in range(7)))
    )
    index.apply("HTTPRoute", made)
    (parent,) = index.wanted(ObjectRef("HTTPRoute", ObjectKey("shop", "r")))
    assert "and 2 more" in parent.conditions[1].message
