"""WorkloadEntry to workload."""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.api.workload import Locality, TunnelProtocol, Workload
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import WorkloadEntry
from istiod_lite.core import workload_entries as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.workload_entries import EntrySurroundings, Place
from tests.unit.istiod_lite.objects import service, workload_entry

FACTS = MeshFacts(network="n1")


def read(address="192.0.2.1", labels=None, annotations=None, **spec):
    raw = workload_entry("vm", "shop", address, labels=labels, **spec)
    raw["metadata"]["annotations"] = annotations or {}
    return objects.decode(raw, WorkloadEntry)


def translated(entry, **around):
    return made.translate(entry, EntrySurroundings(**around), FACTS)


def test_the_whole_value():
    entry = read(
        labels={"app": "db"},
        annotations={"istio.io/autoRegistrationGroup": "group"},
        network="n2",
        locality="r/z",
        weight=3,
        serviceAccount="vm",
    )
    gateway = GatewayAddress(NetworkAddress("n2", ip_address("198.51.100.1")))
    behind = {NamespacedHostname("shop", "db"): (Port(80, 80),)}
    found = translated(entry, network_gateway=gateway, services=behind, policies=("shop/p",))
    assert found == Workload(
        uid="Kubernetes/networking.istio.io/WorkloadEntry/shop/vm",
        name="vm",
        namespace="shop",
        addresses=(ip_address("192.0.2.1"),),
        network="n2",
        network_gateway=gateway,
        service_account="vm",
        canonical_name="db",
        canonical_revision="latest",
        workload_name="group",
        authorization_policies=("shop/p",),
        cluster_id="Kubernetes",
        services=behind,
        locality=Locality("r", "z"),
        capacity=3,
        labels={"app": "db"},
    )


@pytest.mark.parametrize(
    ("address", "want"),
    [
        ("192.0.2.1", Place((ip_address("192.0.2.1"),))),
        ("fd00::1", Place((ip_address("fd00::1"),))),
        ("vm.example.com", Place(hostname="vm.example.com")),
        ("", Place()),
        ("unix:///run/db.sock", Place()),
    ],
)
def test_where_it_is(address, want):
    assert made.place_of(address) == want


@pytest.mark.parametrize(
    ("labels", "annotations", "protocol", "native"),
    [
        ({}, {}, TunnelProtocol.NONE, False),
        ({"networking.istio.io/tunnel": "http"}, {}, TunnelProtocol.HBONE, True),
        ({}, {"ambient.istio.io/redirection": "enabled"}, TunnelProtocol.HBONE, False),
        ({}, {"ambient.istio.io/redirection": "pending"}, TunnelProtocol.NONE, False),
    ],
)
def test_tunnel(labels, annotations, protocol, native):
    found = translated(read(labels=labels, annotations=annotations))
    assert (found.tunnel_protocol, found.native_tunnel) == (protocol, native)


def test_labels_of_the_spec_count_too_and_the_objects_own_win():
    raw = workload_entry("vm", "shop", "", labels={"app": "mine"})
    raw["spec"]["labels"] = {"app": "theirs", "tier": "db"}
    assert objects.decode(raw, WorkloadEntry).labels == {"app": "mine", "tier": "db"}


@pytest.mark.parametrize(
    ("ports", "target", "want"),
    [
        ({}, 8080, (Port(80, 8080),)),
        ({"http": 9090}, 8080, (Port(80, 9090),)),  # by the service port's name
        ({"web": 7070}, "web", (Port(80, 7070),)),
        ({}, "web", ()),  # a named target needs an entry
        ({}, None, (Port(80, 80),)),
    ],
)
def test_ports_behind_a_kubernetes_service(ports, target, want):
    raw = service("db", "shop", "10.96.0.1", ports=[{"name": "http", "port": 80}])
    if target:
        raw["spec"]["ports"][0]["targetPort"] = target
    found = objects.decode(raw, objects.Service)
    assert made.ports_of_service(read(ports=ports), found) == want


@pytest.mark.parametrize(
    ("address", "weight", "text"),
    [("unix:///x", 0, "Unix socket"), ("", -1, "weight -1"), ("192.0.2.1", 2, None)],
)
def test_remarks(address, weight, text):
    found = " ".join(made.remarks(read(address, weight=weight)))
    assert text in found if text else not found
