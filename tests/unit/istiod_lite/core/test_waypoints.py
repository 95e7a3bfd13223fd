"""Which waypoint an object is bound to: every rule as a row."""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import GatewayAddress, NamespacedHostname, WeightedWaypoint
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol
from ambient.kube.core import objects
from istiod_lite.core import waypoints
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.waypoints import Applicant, Binding, Reason, Traffic, Wish
from tests.unit.istiod_lite.objects import gateway, gateway_class, meta

FACTS = MeshFacts()
HOSTNAME = ("Hostname", "wp.shop.svc.cluster.local")
WP, OTHER, CANARY = (
    ObjectKey("shop", "wp"),
    ObjectKey("other", "wp"),
    ObjectKey("shop", "canary"),
)
AT = GatewayAddress(NamespacedHostname("shop", "wp.shop.svc.cluster.local"))
AT_CANARY = GatewayAddress(NetworkAddress("", ip_address("10.96.0.2")))


def metadata(namespace="shop", annotations=None, **labels):
    pairs = {"istio.io/" + name.replace("_", "-"): value for name, value in labels.items()}
    raw = meta("x", namespace, pairs, annotations=annotations or {})
    return objects.decode(raw, objects.Metadata)


def home(**labels):
    return objects.decode(meta("shop", labels=labels), objects.Metadata)


def offered(*addresses, **more):
    made = objects.decode(gateway("wp", "shop", *addresses, **more), objects.Gateway)
    return waypoints.waypoint_of(made, None, FACTS)


def find(key):
    """Two waypoints of the namespace that are ready."""
    if key == WP:
        return offered(HOSTNAME)
    if key == CANARY:
        made = gateway("canary", "shop", ("IPAddress", "10.96.0.2"))
        return waypoints.waypoint_of(objects.decode(made, objects.Gateway), None, FACTS)
    return None


@pytest.mark.parametrize(
    ("own", "namespace", "want"),
    [
        ({}, {}, None),
        ({"use_waypoint": "a"}, {}, Wish(ObjectKey("shop", "a"), False)),
        ({}, {"use_waypoint": "a"}, Wish(ObjectKey("shop", "a"), True)),
        ({"use_waypoint": "a"}, {"use_waypoint": "b"}, Wish(ObjectKey("shop", "a"), False)),
        (
            {"use_waypoint": "a", "use_waypoint_namespace": "infra"},
            {},
            Wish(ObjectKey("infra", "a"), False),
        ),
        # The canary comes from where the primary came from, or not at all.
        ({"use_waypoint": "a"}, {"use_waypoint_canary": "c"}, Wish(ObjectKey("shop", "a"), False)),
        (
            {},
            {"use_waypoint": "a", "use_waypoint_canary": "c"},
            Wish(ObjectKey("shop", "a"), True, ObjectKey("shop", "c")),
        ),
    ],
)
def test_what_labels_ask_for(own, namespace, want):
    found = waypoints.wish(metadata(**own), metadata("", **namespace))
    assert found == want


def bound(asked, *, traffic=Traffic.SERVICE, private=False, facts=FACTS, namespace=None):
    applicant = Applicant(traffic, namespace or home(), private)
    return waypoints.bind(asked, applicant, find, facts)


@pytest.mark.parametrize(
    ("asked", "more", "want"),
    [
        (None, {}, waypoints.UNBOUND),
        (Wish(ObjectKey("shop", "none"), False), {}, Binding(None, None, Reason.OPTED_OUT)),
        (Wish(WP, False), {}, Binding(AT, WP, Reason.ACCEPTED)),
        (Wish(OTHER, False), {}, Binding(None, OTHER, Reason.NOT_READY)),
        (
            Wish(WP, False),
            {"traffic": Traffic.WORKLOAD},
            Binding(None, WP, Reason.OTHER_TRAFFIC),
        ),
        (
            Wish(WP, False),
            {"namespace": objects.decode(meta("far"), objects.Metadata)},
            Binding(None, WP, Reason.DENIED),
        ),
        (Wish(OTHER, False), {"private": True}, Binding(None, OTHER, Reason.OTHER_NAMESPACE)),
        (Wish(WP, False), {"private": True}, Binding(AT, WP, Reason.ACCEPTED)),
    ],
)
def test_binding(asked, more, want):
    assert bound(asked, **more) == want


CLOSED = MeshFacts(waypoint_fail_closed=True)
NOWHERE = GatewayAddress(NamespacedHostname("other", "wp.other.svc.cluster.local"))


@pytest.mark.parametrize(
    ("asked", "traffic", "want"),
    [
        (Wish(OTHER, False), Traffic.SERVICE, NOWHERE),
        (Wish(OTHER, True), Traffic.SERVICE, NOWHERE),
        (Wish(OTHER, True), Traffic.WORKLOAD, NOWHERE),
        (Wish(WP, False), Traffic.WORKLOAD, AT),  # the object itself asked for the wrong one
        (Wish(WP, True), Traffic.WORKLOAD, None),  # the namespace's waypoint is not for it
        (Wish(ObjectKey("shop", "none"), False), Traffic.SERVICE, None),
        (None, Traffic.SERVICE, None),
    ],
)
def test_pain_17_a_mesh_may_fail_closed_where_a_waypoint_is_missing(asked, traffic, want):
    """The address is a name behind which nobody is: tunnels refuse and name the waypoint."""
    found = bound(asked, traffic=traffic, facts=CLOSED)
    assert (found.address, found.accepted) == (want, False)
    assert bound(asked, traffic=traffic).address is None


@pytest.mark.parametrize(
    ("canary", "weight", "reason", "shares"),
    [
        (CANARY, "5", Reason.ACCEPTED, (95, 5)),
        (CANARY, "0", Reason.ACCEPTED, (100, 0)),
        (CANARY, "101", Reason.CANARY_WEIGHT, None),
        (CANARY, "many", Reason.CANARY_WEIGHT, None),
        (WP, "5", Reason.CANARY_IS_PRIMARY, None),
        (OTHER, "5", Reason.NOT_READY, None),
    ],
)
def test_a_canary_that_cannot_be_used_never_unbinds_the_primary(canary, weight, reason, shares):
    found = bound(Wish(WP, False, canary, weight))
    assert (found.address, found.reason, found.canary_reason) == (AT, Reason.ACCEPTED, reason)
    want = () if shares is None else zip((AT, AT_CANARY), shares, strict=True)
    assert found.weighted == tuple(WeightedWaypoint(*pair) for pair in want)
    assert found.gateways == ((WP, CANARY) if shares else (WP,))


@pytest.mark.parametrize(
    ("label", "of_class", "want"),
    [
        (None, None, {Traffic.SERVICE}),
        ("service", "all", {Traffic.SERVICE}),
        ("workload", None, {Traffic.WORKLOAD}),
        (None, "all", {Traffic.SERVICE, Traffic.WORKLOAD}),
        ("none", "all", set()),
        ("nonsense", None, set()),
    ],
)
def test_traffic(label, of_class, want):
    def labels(value):
        return {"istio.io/waypoint-for": value} if value else {}

    made = objects.decode(gateway("wp", "shop", HOSTNAME, labels=labels(label)), objects.Gateway)
    class_ = objects.decode(gateway_class(labels=labels(of_class)), objects.GatewayClass)
    assert waypoints.waypoint_of(made, class_, FACTS).traffic == want


PROXY = {"ambient.istio.io/waypoint-inbound-binding": "PROXY/15088"}


@pytest.mark.parametrize(
    ("on_gateway", "on_class", "want"),
    [
        ({}, {}, None),
        (PROXY, {}, ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088)),
        ({}, PROXY, ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088)),
        ({"ambient.istio.io/waypoint-inbound-binding": "NONE"}, PROXY, None),
        (
            {"ambient.istio.io/waypoint-inbound-binding": "PROXY"},
            {},
            ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 0),
        ),
        ({"ambient.istio.io/waypoint-inbound-binding": "PROXY/x"}, {}, None),
    ],
)
def test_application_tunnel(on_gateway, on_class, want):
    raw = gateway("wp", "shop")
    raw["metadata"]["annotations"] = on_gateway
    class_ = gateway_class(annotations=on_class)
    found = waypoints.inbound_binding(
        objects.decode(raw, objects.Gateway), objects.decode(class_, objects.GatewayClass)
    )
    assert found == want


def listener(protocol, port, **allowed):
    made = {"name": f"p{port}", "protocol": protocol, "port": port}
    return {**made, "allowedRoutes": {"namespaces": allowed}} if allowed else made


@pytest.mark.parametrize(
    ("listeners", "annotations", "want"),
    [
        ([listener("HBONE", 15008, **{"from": "All"})], {}, "All"),
        ([listener("HBONE", 15008)], {}, None),
        ([], {}, None),
        ([listener("HTTP", 80, **{"from": "All"})], {}, None),
        ([listener("HBONE", 15009, **{"from": "All"})], {}, None),
        ([listener("istio.io/PROXY", 15088, **{"from": "All"})], PROXY, "All"),
        ([listener("istio.io/PROXY", 1, **{"from": "All"})], PROXY, None),
        (
            [listener("istio.io/PROXY", 1, **{"from": "Selector"})],
            {"ambient.istio.io/waypoint-inbound-binding": "PROXY"},
            "Selector",
        ),
    ],
)
def test_the_listener_that_decides_who_attaches(listeners, annotations, want):
    raw = gateway("wp", "shop")
    raw["spec"]["listeners"] = listeners
    raw["metadata"]["annotations"] = annotations
    found = waypoints.allowed_routes(objects.decode(raw, objects.Gateway), None)
    assert found.from_ == want


@pytest.mark.parametrize(
    ("addresses", "want"),
    [
        ((), None),
        ((HOSTNAME, ("IPAddress", "10.96.0.1")), AT),
        (
            (("IPAddress", "10.96.0.1"),),
            GatewayAddress(NetworkAddress("", ip_address("10.96.0.1"))),
        ),
        ((("IPAddress", "nonsense"),), None),
    ],
)
def test_address(addresses, want):
    found = offered(*addresses)
    assert (found.address if found else None) == want


def admitted(account):
    match = Match(principals=(StringMatch(MatchKind.EXACT, f"cluster.local/ns/shop/sa/{account}"),))
    return Authorization(
        name="istio_allow_waypoint_shop_wp",
        namespace="shop",
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.ALLOW,
        groups=(((match,),),),
    )


@pytest.mark.parametrize(
    ("change", "instances", "want"),
    [
        ({}, ("whoever",), admitted("wp")),  # one of ours: only the account that we gave it
        ({"annotations": {"gateway.istio.io/service-account": "sa"}}, (), admitted("sa")),
        ({"class": "somebody-elses"}, ("proxy",), admitted("proxy")),
        ({"class": "somebody-elses"}, (), None),
    ],
)
def test_whom_the_admission_of_a_waypoint_names(change, instances, want):
    raw = gateway("wp", "shop")
    raw["metadata"]["annotations"] = change.get("annotations", {})
    raw["spec"]["gatewayClassName"] = change.get("class", "istio-waypoint")
    made = objects.decode(raw, objects.Gateway)
    assert waypoints.admitting(made, dict.fromkeys(instances), FACTS) == want
