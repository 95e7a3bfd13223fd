"""ServiceEntry to services and workloads, as whole values and table by table."""

from ipaddress import ip_address, ip_network

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import (
    AddressRange,
    AppProtocol,
    HealthPolicy,
    LoadBalancing,
    Mode,
    NamespacedHostname,
    Port,
    Scope,
    Service,
    Visibility,
)
from ambient.api.workload import Locality, TunnelProtocol, Workload
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry, WorkloadEntry
from istiod_lite.core import service_entries as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.service_entries import HostFacts
from istiod_lite.core.waypoints import UNBOUND
from istiod_lite.core.workload_entries import EntrySurroundings
from tests.unit.istiod_lite.objects import meta, pod, service_entry, workload_entry

FACTS = MeshFacts(network="n1")
HTTP = [{"number": 80, "name": "http", "protocol": "HTTP"}]


def read(*hosts, labels=None, annotations=None, status=None, **spec):
    raw = service_entry("ext", "shop", *hosts, labels=labels, **spec)
    raw["metadata"]["annotations"] = annotations or {}
    raw["status"] = {"addresses": status} if status else {}
    return objects.decode(raw, ServiceEntry)


def services(entry, *, private=False, canonical=True, namespace=None):
    around = HostFacts(
        namespace=namespace, binding=UNBOUND, private=private, canonical=lambda _: canonical
    )
    return list(made.services(entry, made.hosts_of(entry), around, FACTS))


def endpoints(entry, around=lambda _: EntrySurroundings(), hosts=None):
    won = made.hosts_of(entry) if hosts is None else hosts
    return list(made.endpoints(entry, won, around, FACTS))


def test_the_whole_service():
    entry = read(
        "db.example.com",
        "db2.example.com",
        ports=[
            {"number": 5432, "name": "tcp", "protocol": "TCP", "targetPort": 15432},
            {"number": 80, "name": "http", "protocol": "HTTP"},
        ],
        addresses=["192.0.2.9"],
        subjectAltNames=["spiffe://x/ns/a/sa/b"],
    )
    first, second = services(entry)
    assert first == Service(
        name="ext",
        namespace="shop",
        hostname="db.example.com",
        addresses=(NetworkAddress("n1", ip_address("192.0.2.9")),),
        ports=(Port(5432, 15432, AppProtocol.TCP), Port(80, 80, AppProtocol.HTTP11)),
        subject_alt_names=("spiffe://x/ns/a/sa/b",),
        canonical=True,
    )
    assert (second.name, second.hostname) == ("ext", "db2.example.com")


def test_the_whole_endpoint():
    entry = read(
        "db.example.com",
        labels={"app": "db", "version": "v3"},
        endpoints=[
            {
                "address": "192.0.2.1",
                "ports": {"http": 8081},
                "labels": {"networking.istio.io/tunnel": "http"},
                "locality": "r1/z1/s1",
                "weight": 5,
                "serviceAccount": "db",
                "network": "n2",
            }
        ],
    )
    (found,) = endpoints(entry, lambda _: EntrySurroundings(policies=("shop/p",)))
    assert found == Workload(
        uid="Kubernetes/networking.istio.io/ServiceEntry/shop/ext/192.0.2.1",
        name="ext",
        namespace="shop",
        addresses=(ip_address("192.0.2.1"),),
        network="n2",
        tunnel_protocol=TunnelProtocol.HBONE,
        native_tunnel=True,
        service_account="db",
        canonical_name="db",
        canonical_revision="v3",
        workload_name="ext",
        authorization_policies=("shop/p",),
        cluster_id="Kubernetes",
        services={NamespacedHostname("shop", "db.example.com"): (Port(80, 8081),)},
        locality=Locality("r1", "z1", "s1"),
        capacity=5,
        labels={"networking.istio.io/tunnel": "http"},
    )


@pytest.mark.parametrize(
    ("spec", "addresses"),
    [
        ({"resolution": "DNS"}, ["db.example.com", "db2.example.com"]),
        ({"resolution": "DNS_ROUND_ROBIN"}, ["db.example.com", "db2.example.com"]),
        ({"resolution": "DYNAMIC_DNS"}, ["db.example.com", "db2.example.com"]),
        ({"resolution": "STATIC"}, []),
        ({"resolution": "NONE"}, []),
        ({"resolution": "NONE", "endpoints": [{"address": "192.0.2.1"}]}, []),
        ({"resolution": "DNS", "workloadSelector": {"labels": {"a": "b"}}}, []),
        ({"resolution": "DNS", "endpoints": [{"address": "x.example.com"}]}, ["x.example.com"]),
        ({"endpoints": [{"address": "192.0.2.1"}, {"address": "192.0.2.1"}]}, ["192.0.2.1"]),
        ({"endpoints": [{"address": ""}]}, []),
    ],
)
def test_which_workloads_there_are(spec, addresses):
    found = endpoints(read("db.example.com", "db2.example.com", **spec))
    assert [one.uid.rpartition("/")[2] for one in found] == addresses


def test_a_host_that_is_its_own_endpoint_is_found_by_name_and_only_for_itself():
    first, second = endpoints(read("a.example.com", "b.example.com", resolution="DNS"))
    assert (first.hostname, first.addresses, first.waypoint) == ("a.example.com", (), None)
    assert list(first.services) == [NamespacedHostname("shop", "a.example.com")]
    assert list(second.services) == [NamespacedHostname("shop", "b.example.com")]


def test_hosts_that_others_have_take_their_endpoints_with_them():
    entry = read("a.example.com", "b.example.com", endpoints=[{"address": "192.0.2.1"}])
    (found,) = endpoints(entry, hosts=["b.example.com"])
    assert list(found.services) == [NamespacedHostname("shop", "b.example.com")]
    assert endpoints(entry, hosts=[]) == []


@pytest.mark.parametrize(
    ("text", "single", "ranges"),
    [
        ("10.0.0.5/24", [], ["10.0.0.0/24"]),
        ("10.0.0.0/24", [], ["10.0.0.0/24"]),
        ("10.0.0.5/32", ["10.0.0.5"], []),
        ("10.0.0.5", ["10.0.0.5"], []),
        ("fd00::/64", [], ["fd00::/64"]),
        ("fd00::1/128", ["fd00::1"], []),
        ("nonsense", [], []),
    ],
)
def test_addresses_with_and_without_length(text, single, ranges):
    (found,) = services(read("a.example.com", addresses=[text]))
    assert found.addresses == tuple(NetworkAddress("n1", ip_address(one)) for one in single)
    assert found.ranges == tuple(AddressRange("n1", ip_network(one)) for one in ranges)


GIVEN = [
    {"value": "240.240.0.1", "host": "a.example.com"},
    {"value": "2001:2::1", "host": "a.example.com"},
    {"value": "240.240.0.2", "host": "*.example.com"},
]
OPT_OUT = {"networking.istio.io/enable-autoallocate-ip": "false"}


@pytest.mark.parametrize(
    ("host", "spec", "labels", "want"),
    [
        ("a.example.com", {}, {}, ["240.240.0.1", "2001:2::1"]),
        ("b.example.com", {}, {}, []),
        ("a.example.com", {}, OPT_OUT, []),
        ("a.example.com", {"resolution": "NONE"}, {}, []),
        ("a.example.com", {"addresses": ["192.0.2.1"]}, {}, ["192.0.2.1"]),
        ("*.example.com", {"resolution": "DNS"}, {}, []),
        ("*.example.com", {"resolution": "DYNAMIC_DNS"}, {}, ["240.240.0.2"]),
    ],
)
def test_which_given_addresses_are_used(host, spec, labels, want):
    (found,) = services(read(host, labels=labels, status=GIVEN, **spec))
    assert [str(one.ip) for one in found.addresses] == want


SAME_ZONE = LoadBalancing((Scope.NETWORK, Scope.REGION, Scope.ZONE), Mode.FAILOVER)
PREFER = {"networking.istio.io/traffic-distribution": "PreferClose"}


@pytest.mark.parametrize(
    ("spec", "annotations", "of_namespace", "want"),
    [
        ({}, {}, {}, LoadBalancing()),
        ({}, PREFER, {}, SAME_ZONE),
        ({}, {}, PREFER, SAME_ZONE),
        (
            {"resolution": "NONE"},
            PREFER,
            {},
            LoadBalancing(mode=Mode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL),
        ),
    ],
)
def test_load_balancing(spec, annotations, of_namespace, want):
    namespace = objects.decode(meta("shop", annotations=of_namespace), objects.Metadata)
    entry = read("a.example.com", annotations=annotations, **spec)
    (found,) = services(entry, namespace=namespace)
    assert found.load_balancing == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("HTTP", AppProtocol.HTTP11),
        ("http2", AppProtocol.HTTP2),
        ("GRPC", AppProtocol.GRPC),
        ("HTTPS", AppProtocol.TLS),
        ("TLS", AppProtocol.TLS),
        ("TCP", AppProtocol.TCP),
        ("MONGO", AppProtocol.UNKNOWN),
        ("", AppProtocol.UNKNOWN),
    ],
)
def test_protocols(text, want):
    assert made.app_protocol(text) is want


def test_visibility_and_canonical_are_told():
    (found,) = services(read("a.example.com"), private=True, canonical=False)
    assert (found.visibility, found.canonical) == (Visibility.NAMESPACE, False)


@pytest.mark.parametrize(
    ("port", "want"),
    [
        ({"number": 80, "name": "web"}, 8080),  # the container port of that name
        ({"number": 80, "name": "other", "targetPort": 9090}, 9090),
        ({"number": 80, "name": "other"}, 80),
    ],
)
def test_ports_of_a_pod_that_is_selected(port, want):
    found = objects.decode(pod("a", "shop", "10.0.0.1"), objects.Pod)
    assert made.ports_of_pod(read("a.example.com", ports=[port]), found) == (Port(80, want),)


@pytest.mark.parametrize(
    ("port", "want"),
    [
        ({"number": 80, "name": "web"}, 8080),
        ({"number": 80, "name": "other", "targetPort": 9090}, 9090),
        ({"number": 80, "name": "other"}, 80),
    ],
)
def test_ports_of_a_workload_entry_that_is_selected(port, want):
    raw = workload_entry("vm", "shop", "192.0.2.1", ports={"web": 8080})
    found = objects.decode(raw, WorkloadEntry)
    assert made.ports_of_workload(read("a.example.com", ports=[port]), found) == (Port(80, want),)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"resolution": "STATIK"}, "STATIK"),
        ({"addresses": ["x"]}, "'x' is no IP address"),
        ({"resolution": "NONE", "endpoints": [{"address": "192.0.2.1"}]}, "ignored with NONE"),
        ({"endpoints": [{"address": "a"}, {"address": "a"}]}, "more than once"),
        ({"endpoints": [{"address": "a.example.com"}]}, "needs resolution DNS"),
        ({"endpoints": [], "workloadSelector": {"labels": {}}}, None),
        ({"exportTo": ["."]}, "exportTo"),
        ({"exportTo": ["*"]}, None),
    ],
)
def test_remarks(spec, text):
    found = " ".join(made.remarks(read("a.example.com", **spec)))
    assert text in found if text else not found


def test_hosts_that_name_nothing_or_everything_are_left_out():
    entry = read("*", "", "a.example.com", "a.example.com")
    assert made.hosts_of(entry) == ("a.example.com",)
    assert "'*'" in made.remarks(entry)[0]
