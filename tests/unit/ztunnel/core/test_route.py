"""Where outbound connections go: one row per sentence of the decision table."""

from ipaddress import ip_address, ip_network

import pytest

from ambient.api.service import (
    AddressRange,
    IPFamilies,
    LoadBalancing,
    Mode,
    Scope,
    WeightedWaypoint,
)
from ambient.api.spiffe import Identity
from ambient.api.workload import (
    ApplicationTunnel,
    ApplicationTunnelProtocol,
    NetworkMode,
    WorkloadStatus,
)
from tests.unit.ztunnel.core.mesh_builder import at, mesh, service, waypoint, workload
from ztunnel.core.route import NoRoute, Protocol, Route, missing, route, with_addresses

CLIENT = workload("client", "127.0.0.1")
V6 = "ff06::c3"


def sa(name, namespace="shop"):
    return Identity("cluster.local", namespace, name)


def decide(destination, *things, client=CLIENT, draw=0.0):
    return route(mesh(client, *things), client, at(destination), lambda: draw)


def remote(gateway):
    """An endpoint of the service in another network."""
    return workload(
        "remote", services={"s.example": {80: 8080}}, network="far", network_gateway=gateway
    )


def hop(decision):
    """Protocol, TCP destination and authority: what goes on the wire."""
    assert isinstance(decision, Route), decision
    return decision.protocol, str(decision.target), decision.authority


WAYPOINT_POD = workload("wp", "127.0.0.10")
SELF = workload("client", "127.0.0.1", services={"s.example": {80: 8080}})
GATEWAY = waypoint("10.22.1.1", 15009, "far")
GATEWAY_POD = workload("gw", "10.22.1.1", network="far")
LOCAL_FIRST = LoadBalancing((Scope.NETWORK,), Mode.FAILOVER)
PASSTHROUGH = LoadBalancing(mode=Mode.PASSTHROUGH)

GOLDEN = {
    "an unknown address passes through": ("1.2.3.4:80", [], "TCP", "1.2.3.4:80", ""),
    "a workload in the mesh": (
        *("127.0.0.2:80", [workload("w", "127.0.0.2")]),
        *("HBONE", "127.0.0.2:15008", "127.0.0.2:80"),
    ),
    "a workload outside the mesh": (
        *("127.0.0.2:80", [workload("w", "127.0.0.2", hbone=False)]),
        *("TCP", "127.0.0.2:80", ""),
    ),
    "a workload with a waypoint": (
        "127.0.0.2:80",
        [workload("w", "127.0.0.2", waypoint=waypoint("127.0.0.10")), WAYPOINT_POD],
        *("HBONE", "127.0.0.10:15008", "127.0.0.2:80"),
    ),
    "an IPv6 workload behind an IPv4 waypoint": (
        f"[{V6}]:80",
        [
            workload("w", "127.0.0.2", V6, waypoint=waypoint("127.0.0.11")),
            workload("wp", "127.0.0.11"),
        ],
        *("HBONE", "127.0.0.11:15008", f"[{V6}]:80"),
    ),
    "a workload with a waypoint named by hostname": (
        "127.0.0.2:80",
        [
            workload("w", "127.0.0.2", waypoint=waypoint("shop/wp.example")),
            workload("wp", "127.0.0.10", hostname="wp.example"),
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.2:80"),
    ),
    "a named port: each endpoint has its own number, or none": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", port_map={80: 0}),
            workload("a", "10.0.0.1", services={"s.example": {80: 1234}}, hbone=False),
            workload("b", "10.0.0.2", services={"s.example": {8080: 9999}}, hbone=False),
        ],
        *("TCP", "10.0.0.1:1234", ""),
    ),
    "a service in the mesh": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "an IPv6-only service on a dual-stack pod": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", ip_families=IPFamilies.IPV6_ONLY),
            workload("a", "10.0.0.1", V6, services={"s.example": {80: 8080}}),
        ],
        *("HBONE", f"[{V6}]:15008", f"[{V6}]:8080"),
    ),
    "a passthrough service": (
        "1.2.3.4:80",
        [service("s.example", "1.2.3.4", load_balancing=PASSTHROUGH)],
        *("TCP", "1.2.3.4:80", ""),
    ),
    "a passthrough service with a waypoint": (
        "1.2.3.4:80",
        [
            service(
                *("s.example", "1.2.3.4"),
                load_balancing=PASSTHROUGH,
                waypoint=waypoint("127.0.0.10"),
            ),
            WAYPOINT_POD,
        ],
        *("HBONE", "127.0.0.10:15008", "1.2.3.4:80"),
    ),
    "a service with a waypoint that is a service": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("shop/wp.example")),
            service("wp.example", "127.0.0.9", port_map={15008: 15008}),
            workload("wp", "127.0.0.10", services={"wp.example": {15008: 15008}}),
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.3:80"),
    ),
    "a waypoint given by its service's address": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("127.0.0.9")),
            service("wp.example", "127.0.0.9", port_map={15008: 15008}),
            workload("wp", "127.0.0.10", services={"wp.example": {15008: 15008}}),
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.3:80"),
    ),
    "service traffic ignores the workload's waypoint": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload(
                *("a", "10.0.0.1"),
                services={"s.example": {80: 8080}},
                waypoint=waypoint("127.0.0.10"),
            ),
            WAYPOINT_POD,
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "the waypoint itself goes on to the workload": (
        "127.0.0.2:80",
        [workload("w", "127.0.0.2", waypoint=waypoint("127.0.0.1"))],
        *("HBONE", "127.0.0.2:15008", "127.0.0.2:80"),
    ),
    "an address in the host's network belongs to no workload": (
        "127.0.0.4:80",
        [workload("h", "127.0.0.4", network_mode=NetworkMode.HOST_NETWORK)],
        *("TCP", "127.0.0.4:80", ""),
    ),
    "an endpoint in the host's network is reached by its address": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload(
                *("h", "10.0.0.1"),
                services={"s.example": {80: 8080}},
                network_mode=NetworkMode.HOST_NETWORK,
                hbone=False,
            ),
        ],
        *("TCP", "10.0.0.1:8080", ""),
    ),
    "a pod that calls itself by its service": (
        "127.0.0.3:80",
        [service("s.example", "127.0.0.3"), SELF],
        *("HBONE", "127.0.0.1:15008", "127.0.0.1:8080"),
    ),
    "a pod on the same node gets no shorter way": (
        "127.0.0.2:80",
        [workload("w", "127.0.0.2", node="node-1")],
        *("HBONE", "127.0.0.2:15008", "127.0.0.2:80"),
    ),
    "a pod that speaks HBONE itself": (
        "127.0.0.2:80",
        [workload("w", "127.0.0.2", native_tunnel=True)],
        *("HBONE", "127.0.0.2:15008", "127.0.0.2:80"),
    ),
    "an endpoint that only has a name": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload("a", hostname="db.example", services={"s.example": {80: 8080}}, hbone=False),
        ],
        *("TCP", "db.example:8080", ""),
    ),
    "an address inside a service's range": (
        "10.50.3.4:80",
        [
            service("s.example", ranges=(AddressRange("", ip_network("10.50.0.0/16")),)),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "an endpoint in another network, gateway by address": (
        "127.0.0.3:80",
        [service("s.example", "127.0.0.3"), remote(GATEWAY), GATEWAY_POD],
        *("DOUBLEHBONE", "10.22.1.1:15009", "s.example:80"),
    ),
    "an endpoint in another network, gateway by the name of its service": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            remote(waypoint("shop/gw.example", 15009)),
            service("gw.example", "127.0.0.8", port_map={15009: 15008}),
            workload("gw", "127.0.0.5", services={"gw.example": {15009: 15008}}),
        ],
        *("DOUBLEHBONE", "127.0.0.5:15008", "s.example:80"),
    ),
    "an endpoint in another network, gateway known by its DNS name": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            remote(waypoint("shop/lb.example", 15009)),
            workload("gw", hostname="lb.example", network="far"),
        ],
        *("DOUBLEHBONE", "lb.example:15009", "s.example:80"),
    ),
    "the local network is preferred": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", load_balancing=LOCAL_FIRST),
            remote(GATEWAY),
            GATEWAY_POD,
            workload("z", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "the local endpoint is not healthy": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", load_balancing=LOCAL_FIRST),
            remote(GATEWAY),
            GATEWAY_POD,
            workload(
                *("z", "10.0.0.1"),
                services={"s.example": {80: 8080}},
                status=WorkloadStatus.UNHEALTHY,
            ),
        ],
        *("DOUBLEHBONE", "10.22.1.1:15009", "s.example:80"),
    ),
    "an endpoint that no gateway leads to is left out": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            remote(None),
            workload("z", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "a service whose waypoint is in another network": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("shop/wp.example")),
            service("wp.example", "127.0.0.9", port_map={15008: 15008}),
            workload(
                *("wp", "10.0.0.5"),
                services={"wp.example": {15008: 15008}},
                network="far",
                network_gateway=GATEWAY,
            ),
            GATEWAY_POD,
        ],
        *("DOUBLEHBONE", "10.22.1.1:15009", "s.example:80"),
    ),
    "a waypoint that takes any port": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("127.0.0.9")),
            service("wp.example", "127.0.0.9", port_map={}),
            workload(
                *("wp", "127.0.0.10"),
                services={"wp.example": {}},
                application_tunnel=ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088),
            ),
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.3:80"),
    ),
    "a waypoint outside the mesh is spoken to over HBONE all the same": (
        "127.0.0.2:80",
        [
            workload("w", "127.0.0.2", waypoint=waypoint("127.0.0.10")),
            workload("wp", "127.0.0.10", hbone=False),
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.2:80"),
    ),
    "the waypoint itself goes on to an endpoint of the service": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("127.0.0.1")),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        *("HBONE", "10.0.0.1:15008", "10.0.0.1:8080"),
    ),
    "weighted waypoints that weigh nothing leave it to the other one": (
        "127.0.0.3:80",
        [
            service(
                *("s.example", "127.0.0.3"),
                weighted_waypoints=(WeightedWaypoint(waypoint("127.0.0.66"), 0),),
                waypoint=waypoint("127.0.0.10"),
            ),
            WAYPOINT_POD,
        ],
        *("HBONE", "127.0.0.10:15008", "127.0.0.3:80"),
    ),
    "an address that a workload has, too, has no waypoint of the service": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("127.0.0.10")),
            workload("a", "127.0.0.3", services={"s.example": {80: 8080}}),
            WAYPOINT_POD,
        ],
        *("HBONE", "127.0.0.3:15008", "127.0.0.3:8080"),
    ),
    "the same address in another network is another one": (
        "127.0.0.2:80",
        [workload("w", "127.0.0.2", network="far")],
        *("TCP", "127.0.0.2:80", ""),
    ),
}


@pytest.mark.parametrize("case", GOLDEN.values(), ids=GOLDEN)
def test_next_hop(case):
    destination, things, protocol, target, authority = case
    assert hop(decide(destination, *things)) == (protocol, target, authority)


TUNNELLED = workload(
    *("a", "10.0.0.1"),
    services={"s.example": {}},
    application_tunnel=ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088),
)
REFUSED = {
    "a service without endpoints": (
        *("127.0.0.3:80", [service("s.example", "127.0.0.3")]),
        "no healthy upstream: 127.0.0.3:80",
    ),
    "a port that the service does not have": (
        "127.0.0.3:81",
        [
            service("s.example", "127.0.0.3"),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        "no healthy upstream: 127.0.0.3:81",
    ),
    "a waypoint that nobody knows": (
        *("127.0.0.3:80", [service("s.example", "127.0.0.3", waypoint=waypoint("shop/gone"))]),
        "unknown waypoint: shop/gone",
    ),
    "a waypoint without a ready pod": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", waypoint=waypoint("shop/wp.example")),
            service("wp.example", "127.0.0.9", port_map={15008: 15008}),
        ],
        "no healthy upstream: waypoint shop/wp.example:15008",
    ),
    "an endpoint in a network without a gateway": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}, network="far"),
        ],
        "no valid routing destination for service shop/s.example (127.0.0.3:80): "
        "Kubernetes//Pod/shop/a is in network 'far', of which no gateway is known",
    ),
    "a gateway that nobody knows": (
        "127.0.0.3:80",
        [service("s.example", "127.0.0.3"), remote(waypoint("10.22.1.1", 15009, "far"))],
        "unknown network gateway: far/10.22.1.1",
    ),
    "a gateway without a ready pod": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            remote(waypoint("shop/gw.example", 15009)),
            service("gw.example", "127.0.0.8", port_map={15009: 15008}),
        ],
        "no healthy upstream: network gateway shop/gw.example:15009",
    ),
    "a workload whose waypoint is in another network, called by its address": (
        "127.0.0.2:80",
        [
            workload("w", "127.0.0.2", waypoint=waypoint("10.0.0.5", network="far")),
            workload("wp", "10.0.0.5", network="far"),
        ],
        "Kubernetes//Pod/shop/wp is in network 'far' and 127.0.0.2:80 is no service",
    ),
    "an endpoint without any address": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3", ip_families=IPFamilies.IPV6_ONLY),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
        ],
        "workload Kubernetes//Pod/shop/a has no address to send to (127.0.0.3:80)",
    ),
    "ourselves by loopback": (*("127.0.0.1:15001", []), "attempted recursive call to ourselves"),
    "ourselves by the pod's address": (
        *("10.9.9.9:15006", []),
        "attempted recursive call to ourselves",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_no_route(case):
    destination, things, reason = case
    client = workload("client", "127.0.0.1", "10.9.9.9")
    decision = decide(destination, *things, client=client)
    assert isinstance(decision, NoRoute)
    assert decision.reason == reason


def test_registry_only_lets_pass_what_the_mesh_knows():
    asks = service("asks.example", "127.0.0.4", load_balancing=PASSTHROUGH)
    state = mesh(CLIENT, workload("w", "127.0.0.2", hbone=False), asks)
    state.registry_only = True
    refused = route(state, CLIENT, at("1.2.3.4:80"), lambda: 0.0)
    assert isinstance(refused, NoRoute)
    assert "no workload or service has this address" in refused.reason
    assert "ServiceEntry" in refused.hint
    for known in ("127.0.0.2:80", "127.0.0.4:80"):
        assert hop(route(state, CLIENT, at(known), lambda: 0.0))[1] == known


def test_an_application_tunnel_takes_any_port_of_its_service():
    found = decide("127.0.0.3:81", service("s.example", "127.0.0.3"), TUNNELLED)
    assert found.authority == "10.0.0.1:81"


def test_the_other_end_may_be_the_pod_or_whom_the_service_names():
    sans = ("spiffe://cluster.local/ns/shop/sa/extra", "not a spiffe id")
    found = decide(
        "127.0.0.3:80",
        service("s.example", "127.0.0.3", subject_alt_names=sans),
        workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
    )
    assert found.identities == {sa("a"), sa("extra")}
    assert found.workload.name == "a"
    assert found.service.hostname == "s.example"


def test_the_other_end_of_a_waypoint_route_is_the_waypoint():
    found = decide(
        "127.0.0.3:80",
        service("s.example", "127.0.0.3", waypoint=waypoint("127.0.0.10")),
        WAYPOINT_POD,
    )
    assert found.identities == {sa("wp")}
    assert found.via_waypoint
    assert found.service.hostname == "s.example"
    assert found.reason == "waypoint of service shop/s.example"


def test_weighted_waypoints_share_by_weight():
    weighted = (
        WeightedWaypoint(waypoint("127.0.0.10"), 1),
        WeightedWaypoint(waypoint("127.0.0.11"), 3),
    )
    things = (
        service("s.example", "127.0.0.3", weighted_waypoints=weighted),
        WAYPOINT_POD,
        workload("wp2", "127.0.0.11"),
    )
    targets = [decide("127.0.0.3:80", *things, draw=d).target.host for d in (0.0, 0.24, 0.25, 0.9)]
    assert targets == ["127.0.0.10", "127.0.0.10", "127.0.0.11", "127.0.0.11"]


def test_protocols_are_spelled_as_in_the_connection_dump():
    assert [str(protocol) for protocol in Protocol] == ["TCP", "HBONE", "DOUBLEHBONE"]


def test_both_ends_of_a_double_tunnel_are_known():
    inner = "spiffe://cluster.local/ns/shop/sa/s"
    found = decide(
        "127.0.0.3:80",
        service("s.example", "127.0.0.3", subject_alt_names=(inner,)),
        remote(waypoint("shop/gw.example", 15009)),
        service(
            *("gw.example", "127.0.0.8"),
            port_map={15009: 15008},
            subject_alt_names=("spiffe://cluster.local/ns/shop/sa/gateways",),
        ),
        workload("gw", "127.0.0.5", services={"gw.example": {15009: 15008}}),
    )
    assert found.identities == {sa("gateways"), sa("gw")}
    assert found.inner_identities == {sa("s")}
    assert found.workload.name == "gw"
    assert found.reason.endswith("through the gateway of network 'far'")


def test_behind_a_remote_waypoint_only_its_service_counts():
    found = decide(
        "127.0.0.3:80",
        service("s.example", "127.0.0.3", waypoint=waypoint("shop/wp.example")),
        service(
            *("wp.example", "127.0.0.9"),
            port_map={15008: 15008},
            subject_alt_names=("spiffe://cluster.local/ns/shop/sa/wps",),
        ),
        workload(
            *("wp", "10.0.0.5"),
            services={"wp.example": {15008: 15008}},
            network="far",
            network_gateway=GATEWAY,
        ),
        GATEWAY_POD,
    )
    assert found.inner_identities == {sa("wps")}
    assert found.via_waypoint


TWO = (
    service("s.example", "127.0.0.3"),
    workload("a", "10.0.0.1", services={"s.example": {80: 8080}}),
    workload("b", "10.0.0.2", services={"s.example": {80: 8080}}),
)


def test_pain_14_an_endpoint_that_could_not_be_reached_is_left_out():
    state = mesh(CLIENT, *TWO)
    first = route(state, CLIENT, at("127.0.0.3:80"), lambda: 0.0)
    tried = frozenset({first.workload.uid})
    second = route(state, CLIENT, at("127.0.0.3:80"), lambda: 0.0, tried)
    assert {first.target.host, second.target.host} == {"10.0.0.1", "10.0.0.2"}
    third = route(state, CLIENT, at("127.0.0.3:80"), lambda: 0.0, tried | {second.workload.uid})
    assert isinstance(third, NoRoute)


@pytest.mark.parametrize("destination", ["127.0.0.2:80", "127.0.0.4:80"])
def test_a_single_workload_or_waypoint_has_no_other(destination):
    things = [
        workload("w", "127.0.0.2"),
        workload("v", "127.0.0.4", waypoint=waypoint("127.0.0.10")),
        WAYPOINT_POD,
    ]
    state = mesh(CLIENT, *things)
    first = route(state, CLIENT, at(destination), lambda: 0.0)
    again = route(state, CLIENT, at(destination), lambda: 0.0, frozenset({first.workload.uid}))
    assert "cannot be reached" in again.reason


def test_more_ports_of_ours_may_be_out_of_bounds():
    state, illegal = mesh(CLIENT), frozenset({15080})
    found = route(state, CLIENT, at("127.0.0.1:15080"), lambda: 0.0, illegal=illegal)
    assert found == NoRoute(reason="attempted recursive call to ourselves")


def named(hbone=True, **more):
    return decide(
        "127.0.0.3:80",
        service("s.example", "127.0.0.3", **more),
        workload("a", hostname="db.example", services={"s.example": {80: 8080}}, hbone=hbone),
    )


def addresses(*texts):
    return tuple(map(ip_address, texts))


@pytest.mark.parametrize(
    ("found", "resolved", "draw", "target", "authority"),
    [
        (named(), ["10.0.0.8"], 0.0, "10.0.0.8:15008", "10.0.0.8:8080"),
        (named(hbone=False), ["10.0.0.8"], 0.0, "10.0.0.8:8080", ""),
        (named(hbone=False), [V6, "10.0.0.8"], 0.9, "10.0.0.8:8080", ""),
        (named(hbone=False), [V6], 0.0, f"[{V6}]:8080", ""),
        (named(hbone=False), ["10.0.0.8", "10.0.0.9"], 0.9, "10.0.0.9:8080", ""),
        (
            named(hbone=False, ip_families=IPFamilies.IPV6_ONLY),
            ["10.0.0.8", V6],
            *(0.0, f"[{V6}]:8080", ""),
        ),
    ],
)
def test_a_resolved_name(found, resolved, draw, target, authority):
    done = with_addresses(found, at("127.0.0.3:80"), addresses(*resolved), lambda: draw)
    assert (str(done.target), done.authority) == (target, authority)


@pytest.mark.parametrize(
    ("families", "resolved"), [(IPFamilies.DUAL, []), (IPFamilies.IPV4_ONLY, [V6])]
)
def test_a_name_without_a_usable_address(families, resolved):
    found = named(ip_families=families)
    done = with_addresses(found, at("127.0.0.3:80"), addresses(*resolved), lambda: 0.0)
    assert done.reason.startswith("no ip addresses were resolved for db.example")
    assert "shop/s.example" in done.reason
    assert "db.example" in done.hint


def lacks(*things):
    found = missing(mesh(CLIENT, *things), CLIENT, at("127.0.0.3:80"))
    return [f"{network}/{host}" for network, host in found]


def test_what_a_route_would_have_to_ask_for():
    named = service("s.example", "127.0.0.3", waypoint=waypoint("shop/wp.example"))
    far_pod = workload(
        "wp", services={"wp.example": {15008: 15008}}, network="far", network_gateway=GATEWAY
    )
    owner = service("wp.example", port_map={15008: 15008})
    assert lacks() == ["/127.0.0.3"]
    assert lacks(service("s.example", "127.0.0.3")) == []
    assert lacks(named) == ["shop/wp.example"]
    assert lacks(named, owner, far_pod) == ["far/10.22.1.1"]
    assert lacks(named, owner, far_pod, GATEWAY_POD) == []
    assert lacks(service("s.example", "127.0.0.3"), remote(GATEWAY)) == ["far/10.22.1.1"]
    assert lacks(workload("w", "127.0.0.3", waypoint=waypoint("127.0.0.10"))) == ["/127.0.0.10"]
