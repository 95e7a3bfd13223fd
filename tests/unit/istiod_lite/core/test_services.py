"""Kubernetes Service to mesh service."""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import (
    AppProtocol,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    Port,
    Scope,
    Service,
)
from ambient.kube.core import objects
from istiod_lite.core import services
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.waypoints import UNBOUND
from tests.unit.istiod_lite.objects import service


def translated(spec=None, **metadata):
    raw = service("web", "shop", "10.96.0.1")
    raw["spec"] |= spec or {}
    raw["metadata"] |= metadata
    return services.translate(objects.decode(raw, objects.Service), None, UNBOUND, MeshFacts())


def test_the_whole_value():
    spec = {
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [
            {"name": "http-web", "port": 80, "targetPort": "named"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "targetPort": 5353},
        ],
    }
    assert translated(spec) == Service(
        name="web",
        namespace="shop",
        hostname="web.shop.svc.cluster.local",
        addresses=(
            NetworkAddress("", ip_address("10.96.0.1")),
            NetworkAddress("", ip_address("fd00::1")),
        ),
        ports=(Port(80, 0, AppProtocol.HTTP11), Port(53, 5353, AppProtocol.TCP)),
        ip_families=IPFamilies.DUAL,
        canonical=True,
    )


@pytest.mark.parametrize(
    ("port", "want"),
    [
        ({"port": 80, "name": "http"}, AppProtocol.HTTP11),
        ({"port": 80, "name": "HTTP2-x"}, AppProtocol.HTTP2),
        ({"port": 80, "name": "grpc-x"}, AppProtocol.GRPC),
        ({"port": 80, "name": "grpc-web-x"}, AppProtocol.UNKNOWN),
        ({"port": 80, "name": "https"}, AppProtocol.TLS),
        ({"port": 80, "name": "tcp-x"}, AppProtocol.TCP),
        ({"port": 80, "name": "mysql"}, AppProtocol.UNKNOWN),
        ({"port": 80, "name": "web"}, AppProtocol.UNKNOWN),
        ({"port": 3306, "name": "web"}, AppProtocol.TCP),
        ({"port": 80, "name": "http", "appProtocol": "kubernetes.io/h2c"}, AppProtocol.HTTP2),
        ({"port": 80, "name": "http", "appProtocol": "kubernetes.io/wss"}, AppProtocol.TLS),
        ({"port": 80, "name": "tcp", "appProtocol": "grpc"}, AppProtocol.GRPC),
        ({"port": 80, "name": "http", "protocol": "UDP"}, AppProtocol.UNKNOWN),
    ],
)
def test_app_protocol(port, want):
    assert services.app_protocol(objects.decode(port, objects.ServicePort)) is want


SAME_ZONE = (Scope.NETWORK, Scope.REGION, Scope.ZONE)


@pytest.mark.parametrize(
    ("spec", "annotation", "want"),
    [
        ({}, None, LoadBalancing()),
        (
            {"internalTrafficPolicy": "Local"},
            "PreferClose",
            LoadBalancing((Scope.NODE,), Mode.STRICT),
        ),
        ({"trafficDistribution": "PreferClose"}, None, LoadBalancing(SAME_ZONE, Mode.FAILOVER)),
        ({}, "PreferSameZone", LoadBalancing(SAME_ZONE, Mode.FAILOVER)),
        (
            {"trafficDistribution": "PreferSameNode"},
            "PreferClose",
            LoadBalancing((*SAME_ZONE, Scope.SUBZONE, Scope.NODE), Mode.FAILOVER),
        ),
        ({"trafficDistribution": "Any"}, None, LoadBalancing()),
        (
            {"publishNotReadyAddresses": True},
            None,
            LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL),
        ),
    ],
)
def test_load_balancing(spec, annotation, want):
    key = "networking.istio.io/traffic-distribution"
    made = translated(spec, annotations={key: annotation} if annotation else {})
    assert made.load_balancing == want


@pytest.mark.parametrize("ips", [["None"], [""], []])
def test_headless(ips):
    assert translated({"clusterIP": "None", "clusterIPs": ips}).addresses == ()


def test_external_names_are_not_in_the_mesh():
    raw = service("x", "shop", "")
    raw["spec"]["type"] = "ExternalName"
    assert not services.is_in_mesh(objects.decode(raw, objects.Service))
