"""Where outbound connections go: one row per sentence of the decision table."""

import pytest

from ambient.api.service import IPFamilies, LoadBalancing, Mode, WeightedWaypoint
from ambient.api.spiffe import Identity
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol, NetworkMode
from tests.unit.ztunnel.core.mesh_builder import at, mesh, service, waypoint, workload
from ztunnel.core.route import NoRoute, Protocol, Route, route

CLIENT = workload("client", "127.0.0.1")
V6 = "ff06::c3"


def sa(name, namespace="shop"):
    return Identity("cluster.local", namespace, name)


def decide(destination, *things, client=CLIENT, draw=0.0):
    return route(mesh(client, *things), client, at(destination), lambda: draw)


def hop(decision):
    """Protocol, TCP destination and authority: what goes on the wire."""
    assert isinstance(decision, Route), decision
    return decision.protocol, str(decision.target), decision.authority


WAYPOINT_POD = workload("wp", "127.0.0.10")
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
    "an endpoint in another network": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload("a", "10.0.0.1", services={"s.example": {80: 8080}}, network="far"),
        ],
        "workload Kubernetes//Pod/shop/a is in another network ('far')",
    ),
    "an endpoint that only has a name": (
        "127.0.0.3:80",
        [
            service("s.example", "127.0.0.3"),
            workload("a", hostname="db.example", services={"s.example": {80: 8080}}),
        ],
        "workload Kubernetes//Pod/shop/a has no address to send to",
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
    assert [str(protocol) for protocol in Protocol] == ["TCP", "HBONE"]
