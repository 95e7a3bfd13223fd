"""Whom a CONNECT is for, and what its first bytes are."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import AppProtocol, GatewayAddress, Port, WeightedWaypoint
from tests.unit.waypoint.sample import OWN, PLACE, WAYPOINT, mesh, service, workload
from waypoint.core.dispatch import Protocol, Refusal, Self, dispatch, sniff

BY_ADDRESS = GatewayAddress(NetworkAddress("", ip_address("10.96.0.99")))


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("10.96.0.10:9080", "reviews.shop.svc.cluster.local"),
        ("reviews.shop.svc.cluster.local:9080", "reviews.shop.svc.cluster.local"),
        ("10.0.0.8:1234", "bound"),
    ],
)
def test_bound_destinations(authority, name):
    state = mesh(workload("bound", "10.0.0.8", "v1", waypoint=WAYPOINT))
    assert dispatch(authority, state, OWN, "").key.hostname == name


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        ("10.96.0.10", 400, "has no port"),
        ("10.96.0.10:0", 400, "has a bad port"),
        ("10.96.0.10:81", 404, "shop/reviews.shop.svc.cluster.local has no port 81"),
        ("10.96.0.77:80", 404, "no service or workload has the address 10.96.0.77"),
        ("10.0.0.1:9080", 404, "workload shop/reviews-v1 does not use waypoint shop/waypoint"),
        ("nobody:80", 404, "no service has the name nobody"),
        ("10.96.0.50:9080", 404, "does not use waypoint shop/waypoint"),
    ],
)
def test_refusals_say_why(authority, status, reason):
    state = mesh(service("free", "10.96.0.50", waypoint=None))
    refused = dispatch(authority, state, OWN, "")
    assert isinstance(refused, Refusal)
    assert refused.status == status
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("waypoint", "weighted", "served"),
    [
        (WAYPOINT, (), True),
        (BY_ADDRESS, (), True),  # the address of the waypoint's Service
        (GatewayAddress(NetworkAddress("", ip_address("10.0.0.50"))), (), True),  # our own address
        (GatewayAddress(NetworkAddress("", ip_address("10.0.0.51"))), (), False),
        (None, (), False),
        (None, (WeightedWaypoint(WAYPOINT, 10),), True),
    ],
)
def test_how_a_service_names_its_waypoint(waypoint, weighted, served):
    own = Self(PLACE, frozenset({NetworkAddress("", ip_address("10.0.0.50"))}))
    state = mesh(
        service("waypoint", "10.96.0.99", waypoint=None),
        service("cart", "10.96.0.60", waypoint=waypoint, weighted_waypoints=weighted),
    )
    found = dispatch("10.96.0.60:9080", state, own, "")
    assert isinstance(found, Refusal) is not served


@pytest.mark.parametrize(
    ("declared", "speaks"),
    [
        (AppProtocol.HTTP11, Protocol.HTTP),
        (AppProtocol.UNKNOWN, Protocol.SNIFF),
        (AppProtocol.TCP, Protocol.TCP),
        (AppProtocol.TLS, Protocol.TCP),
        (AppProtocol.HTTP2, Protocol.HTTP),
        (AppProtocol.GRPC, Protocol.HTTP),
    ],
)
def test_declared_protocols(declared, speaks):
    state = mesh(service(ports=(Port(9080, 9080, declared),)))
    assert dispatch("10.96.0.10:9080", state, OWN, "").protocol is speaks


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (b"GET / HTTP/1.1\r\n", Protocol.HTTP1),
        (b"DELETE /x HTTP/1.1\r\nhost:", Protocol.HTTP1),
        (b"GET / HTTP/1.0\r\n", Protocol.TCP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol.HTTP2),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Protocol.TCP),
        (b"PRI * HTT", None),
        (b"SSH-2.0-x\r\n", Protocol.TCP),
        (b"\x16\x03\x01", Protocol.TCP),
        (b"GETX / HTTP/1.1\r\n", Protocol.TCP),
        (b"G", None),
        (b"GET", None),
        (b"GET / HT", None),
        (b"GET /" + b"a" * 9000, Protocol.TCP),
    ],
)
def test_sniffing(first, found):
    assert sniff(first) is found
