"""Gateways of other networks."""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import GatewayAddress, NamespacedHostname
from ambient.api.workload import TunnelProtocol, Workload
from ambient.kube.core import objects
from istiod_lite.core import network_gateways as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import gateway, namespace, workload_entry


def remote(*addresses, network="far", kind="istio-remote", protocol="HBONE", annotations=None):
    labels = {"topology.istio.io/network": network} if network else {}
    raw = gateway("east-west", "istio-system", labels=labels)
    raw["metadata"]["annotations"] = annotations or {}
    raw["spec"]["gatewayClassName"] = kind
    raw["spec"]["listeners"] = [{"name": "l", "port": 15008, "protocol": protocol}]
    raw["spec"]["addresses"] = [{"type": kind_, "value": value} for kind_, value in addresses]
    return raw


IP, NAME = ("IPAddress", "198.51.100.1"), ("Hostname", "gw.example.com")
AT = GatewayAddress(NetworkAddress("far", ip_address("198.51.100.1")))


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (remote(IP), AT),
        (remote(NAME), GatewayAddress(NamespacedHostname("istio-system", "gw.example.com"))),
        (remote(), None),
        (remote(IP, network=None), None),
        (remote(IP, kind="istio-waypoint"), None),
        (remote(IP, protocol="TLS"), None),
    ],
)
def test_address(raw, want):
    assert made.address(objects.decode(raw, objects.Gateway)) == want


@pytest.mark.parametrize(
    ("annotations", "account"),
    [
        ({}, "east-west-istio-remote"),
        ({"gateway.istio.io/service-account": "gw"}, "gw"),
    ],
)
def test_the_whole_workload(annotations, account):
    raw = objects.decode(remote(IP, annotations=annotations), objects.Gateway)
    assert list(made.workloads(raw, MeshFacts())) == [
        Workload(
            uid="NetworkGateway/far/198.51.100.1/15008",
            name="east-west",
            namespace="istio-system",
            addresses=(ip_address("198.51.100.1"),),
            network="far",
            tunnel_protocol=TunnelProtocol.HBONE,
            service_account=account,
            canonical_name="east-west",
            canonical_revision="latest",
            workload_name="east-west",
            cluster_id="Kubernetes",
        )
    ]


def test_the_own_network_needs_no_gateway():
    raw = objects.decode(remote(IP), objects.Gateway)
    assert list(made.workloads(raw, MeshFacts(network="far"))) == []


VM = "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm"


def test_entries_of_another_network_follow_its_gateway():
    index = Index()
    index.apply("Namespace", namespace("shop"))
    index.apply("WorkloadEntry", workload_entry("vm", "shop", "10.0.0.1", network="far"))
    assert index.workloads[VM].network_gateway is None
    changes = index.apply("Gateway", remote(IP))
    assert changes.addresses == {VM, "NetworkGateway/far/198.51.100.1/15008"}
    assert index.workloads[VM].network_gateway == AT
    changes = index.remove("Gateway", "istio-system", "east-west")
    assert changes.addresses == {VM, "NetworkGateway/far/198.51.100.1/15008"}
    assert index.workloads[VM].network_gateway is None
