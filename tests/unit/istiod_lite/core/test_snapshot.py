"""What proxies are sent: encoded once, found by name and by alias."""

import pytest

from ambient.api.type_urls import ADDRESS_TYPE, WORKLOAD_TYPE
from ambient.xds.core import wire
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.core.snapshot import AddressSource, Delta, Publisher, WorkloadSource
from tests.unit.istiod_lite.objects import gateway, namespace, pod, policy, service

WEB, API = "Kubernetes//Pod/shop/web", "Kubernetes//Pod/shop/api"
SERVICE = "shop/web.shop.svc.cluster.local"


@pytest.fixture
def index():
    made = Index()
    made.stage("Namespace", namespace("shop"))
    made.stage("Pod", pod("web", "shop", "10.0.0.1", labels={"app": "web"}))
    made.stage("Pod", pod("api", "shop", "10.0.0.2", node="n2"))
    made.stage("Service", service("web", "shop", "10.96.0.1", selector={"app": "web"}))
    return made


@pytest.fixture
def publisher(index):
    made = Publisher()
    made.advance(index, index.settle())
    return made


def test_what_is_sent_reads_back_as_what_is_known(index, publisher):
    source = AddressSource(publisher.snapshot, labels=True, node="")
    decoded = {name: wire.decode(ADDRESS_TYPE, source.get(name).body) for name in source.names()}
    assert decoded == {**index.workloads, **index.services}


def test_labels_are_for_waypoints_only(publisher):
    plain = AddressSource(publisher.snapshot, labels=False, node="").get(WEB)
    assert wire.decode(ADDRESS_TYPE, plain.body).labels == {}


def test_versions_are_content(index, publisher):
    source = AddressSource(publisher.snapshot, labels=False, node="")
    other = Publisher()
    fresh = Index()
    fresh.load({"Pod": [pod("web", "shop", "10.0.0.1", labels={"app": "web"})]})
    other.advance(fresh, fresh.settle())
    assert source.get(WEB).version != source.get(API).version
    index.apply("Pod", pod("api", "shop", "10.0.0.2", node="n2"))
    assert (
        AddressSource(publisher.snapshot, labels=False, node="").get(API).version
        == source.get(API).version
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (WEB, [WEB]),
        ("/10.0.0.1", [WEB]),
        (SERVICE, [SERVICE, WEB]),
        ("/10.96.0.1", [SERVICE, WEB]),
        ("other/10.0.0.1", []),
        ("nonsense", []),
    ],
)
def test_names_and_aliases(publisher, name, found):
    assert list(AddressSource(publisher.snapshot, labels=False, node="").find(name)) == found


def test_a_node_gets_its_own_workloads(publisher):
    assert list(AddressSource(publisher.snapshot, labels=False, node="n2").unasked()) == [API]


def test_workloads_alone(publisher):
    source = WorkloadSource(publisher.snapshot, labels=False, node="")
    assert set(source.names()) == {WEB, API}
    assert source.get(SERVICE) is None
    assert wire.decode(WORKLOAD_TYPE, source.get(API).body).name == "api"


def test_old_snapshots_stay_as_they_were(index, publisher):
    before = publisher.snapshot
    publisher.advance(index, index.remove("Pod", "shop", "api"))
    assert (API in before.addresses, API in publisher.snapshot.addresses) == (True, False)


def test_configs_by_waypoint(index, publisher):
    index.apply("Gateway", gateway("wp", "shop", ("IPAddress", "10.96.0.9")))
    target = {"targetRefs": [{"kind": "Gateway", "name": "wp"}]}
    publisher.advance(index, index.apply("AuthorizationPolicy", policy("p", "shop", target)))
    assert set(publisher.snapshot.configs[ObjectKey("shop", "wp")]) == {
        "AuthorizationPolicy/shop/p"
    }
    publisher.advance(index, index.remove("Gateway", "shop", "wp"))
    assert publisher.snapshot.configs == {}


def test_deltas_merge():
    one = Delta({"a": frozenset("x")}, frozenset("l"))
    two = Delta({"a": frozenset("y"), "b": frozenset("z")})
    assert one.merged(two) == Delta({"a": frozenset("xy"), "b": frozenset("z")}, frozenset("l"))
