"""Several clusters seen from one (Istio: ambientindex_multicluster_test.go), and pain 36."""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.api.workload import TunnelProtocol, WorkloadStatus
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.federation import Federation
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import gateway, namespace, pod, service

GLOBAL = {"istio.io/global": "true"}
WEB = "shop/web.shop.svc.cluster.local"
KEY = NamespacedHostname("shop", "web.shop.svc.cluster.local")
SPLIT = f"far/SplitHorizonWorkload/istio-system/east-west/198.51.100.1/{WEB}"
WAY = "NetworkGateway/far/198.51.100.1/15008"


def cluster(name, network, *objects):
    """An index of a cluster whose system namespace names its network."""
    index = Index(MeshFacts(cluster_id=name))
    root = namespace("istio-system")
    if network:
        root["metadata"]["labels"] = {"topology.istio.io/network": network}
    index.stage("Namespace", root)
    index.stage("Namespace", namespace("shop"))
    for kind, obj in objects:
        index.stage(kind, obj)
    index.settle()
    return index


def web(ip="10.96.0.1", labels=GLOBAL):
    return ("Service", service("web", "shop", ip, selector={"app": "web"}, labels=labels))


def web_pod(name, ip, account="web"):
    return ("Pod", pod(name, "shop", ip, account=account, labels={"app": "web"}))


def east_west(*addresses):
    made = gateway("east-west", "istio-system")
    made["spec"]["gatewayClassName"] = "istio-east-west"
    made["status"] = {"addresses": [{"type": "IPAddress", "value": one} for one in addresses]}
    return ("Gateway", made)


def far(*objects, gateways=("198.51.100.1",)):
    return cluster("two", "far", east_west(*gateways), *objects)


def apply(federation, index, kind, obj):
    """What our clients are told of a change in the other cluster."""
    return federation.changed("two", index.apply(kind, obj)).addresses


def remove(federation, index, kind, name, home="shop"):
    return federation.changed("two", index.remove(kind, home, name)).addresses


# 72: split horizon.


def test_another_network_is_one_workload_for_each_service():
    federation = Federation(cluster("one", "near", web()))
    index = far(web("10.97.0.1"), web_pod("a", "10.2.0.1"))
    assert federation.join("two", index).addresses == {SPLIT, WAY, WEB}
    found = federation.workloads[SPLIT]
    assert (found.addresses, found.hostname, found.capacity) == ((), "", 1)
    assert found.tunnel_protocol is TunnelProtocol.HBONE
    assert found.network == "far"
    at = NetworkAddress("far", ip_address("198.51.100.1"))
    assert found.network_gateway == GatewayAddress(at, 15008)
    assert found.services == {KEY: (Port(80, 80),)}
    gateway_ = federation.workloads[WAY]
    assert (gateway_.network, gateway_.service_account) == ("far", "east-west")
    # Its pods themselves are not told.
    assert not any("Pod" in uid for uid in federation.workloads)

    assert apply(federation, index, *web_pod("b", "10.2.0.2")) == {SPLIT}
    assert federation.workloads[SPLIT].capacity == 2
    unready = web_pod("b", "10.2.0.2")[1]
    unready["status"]["conditions"] = []
    assert apply(federation, index, "Pod", unready) == {SPLIT}
    assert federation.workloads[SPLIT].capacity == 1
    assert remove(federation, index, "Pod", "a") == {SPLIT}
    assert SPLIT not in federation.workloads


def test_without_a_gateway_there_is_no_way():
    federation = Federation(cluster("one", "near", web()))
    index = far(web("10.97.0.1"), web_pod("a", "10.2.0.1"), gateways=())
    federation.join("two", index)
    assert SPLIT not in federation.workloads
    assert apply(federation, index, *east_west("198.51.100.1")) == {SPLIT, WAY}
    assert SPLIT in federation.workloads
    assert remove(federation, index, "Gateway", "east-west", "istio-system") == {SPLIT, WAY}
    assert {SPLIT, WAY}.isdisjoint(federation.workloads)


def test_a_service_that_becomes_local_leaves_the_others():
    federation = Federation(cluster("one", "near", web()))
    index = far(web("10.97.0.1"), web_pod("a", "10.2.0.1"))
    federation.join("two", index)
    assert apply(federation, index, *web("10.97.0.1", labels={})) == {SPLIT, WEB}
    assert SPLIT not in federation.workloads
    assert len(federation.services[WEB].addresses) == 1


@pytest.mark.parametrize(("here", "there"), [({}, GLOBAL), (GLOBAL, {}), ({}, {})])
def test_both_sides_have_to_want_it(here, there):
    local = cluster("one", "near", web(labels=here))
    federation = Federation(local)
    federation.join("two", far(web("10.97.0.1", labels=there), web_pod("a", "10.2.0.1")))
    assert SPLIT not in federation.workloads
    assert federation.services[WEB] == local.services[WEB]
    # Ours becomes global (or not): what is told follows.
    changes = federation.absorb(local.apply(*web()))
    assert (SPLIT in federation.workloads) is (there == GLOBAL)
    assert (SPLIT in changes.addresses) is (there == GLOBAL and here != GLOBAL)


def test_scopes_of_the_mesh_configuration():
    local = cluster("one", "near", web(labels={"team": "a"}))
    federation = Federation(local)
    federation.join("two", far(web("10.97.0.1", labels={"team": "a"}), web_pod("a", "10.2.0.1")))
    assert SPLIT not in federation.workloads
    scopes = (
        "serviceScopeConfigs:\n"
        "- {scope: GLOBAL, servicesSelector: {matchLabels: {team: a}}}\n"
        "- {scope: LOCAL}\n"
    )
    config = {"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": scopes}}
    federation.absorb(local.apply("MeshConfig", config))
    assert SPLIT in federation.workloads


# 73: the same network.


def test_the_same_network_is_told_pod_by_pod():
    federation = Federation(cluster("one", "near", web()))
    other = service("own", "shop", "10.97.0.9", selector={"app": "web"})
    index = cluster("two", "near", web("10.97.0.1"), ("Service", other), web_pod("a", "10.2.0.1"))
    uid = "two//Pod/shop/a"
    assert uid in federation.join("two", index).addresses
    found = federation.workloads[uid]
    assert (found.addresses, found.cluster_id) == ((ip_address("10.2.0.1"),), "two")
    # It is behind what both share, and not behind a service of the other cluster alone.
    assert list(found.services) == [KEY]
    assert SPLIT not in federation.workloads
    assert remove(federation, index, "Pod", "a") == {uid}
    assert uid not in federation.workloads


def test_membership_follows_what_is_global():
    local = cluster("one", "near", web())
    federation = Federation(local)
    index = cluster("two", "near", web("10.97.0.1"), web_pod("a", "10.2.0.1"))
    federation.join("two", index)
    uid = "two//Pod/shop/a"
    assert apply(federation, index, *web("10.97.0.1", labels={})) == {uid, WEB}
    assert not federation.workloads[uid].services
    assert apply(federation, index, *web("10.97.0.1")) == {uid, WEB}
    assert KEY in federation.workloads[uid].services
    changes = federation.absorb(local.apply(*web(labels={})))
    assert {uid, WEB} <= changes.addresses
    assert not federation.workloads[uid].services


# 74, 75: the merged service.


def test_addresses_and_names_of_both_are_one():
    federation = Federation(cluster("one", "near", web()))
    federation.join("two", far(web("10.97.0.1"), web_pod("a", "10.2.0.1", "remote")))
    found = federation.services[WEB]
    assert [(one.network, str(one.ip)) for one in found.addresses] == [
        ("far", "10.97.0.1"), ("near", "10.96.0.1")
    ]  # fmt: skip
    # Whom the far end of a double tunnel may prove to be.
    assert found.subject_alt_names == ("spiffe://cluster.local/ns/shop/sa/remote",)


def test_a_service_that_only_the_other_has_is_added():
    federation = Federation(cluster("one", "near"))
    federation.join("two", far(web("10.97.0.1"), web_pod("a", "10.2.0.1")))
    assert federation.services[WEB].name == "web"
    assert SPLIT in federation.workloads


def test_the_waypoint_of_the_other_cluster_stays():
    waypoint = gateway("wp", "shop", ("IPAddress", "10.97.0.2"))
    bound = service("web", "shop", "10.97.0.1", selector={"app": "web"},
                    labels={**GLOBAL, "istio.io/use-waypoint": "wp"})  # fmt: skip
    federation = Federation(cluster("one", "near", web()))
    index = far(("Gateway", waypoint), ("Service", bound), web_pod("a", "10.2.0.1"))
    federation.join("two", index)
    assert federation.services[WEB].waypoint is not None


# 76: life of a cluster.


def test_a_cluster_that_leaves_takes_everything_with_it():
    local = cluster("one", "near", web(), web_pod("here", "10.1.0.1"))
    federation = Federation(local)
    for turn in range(3):
        federation.join("two", far(web("10.97.0.1"), web_pod("a", "10.2.0.1")))
        assert SPLIT in federation.workloads
        assert federation.leave("two").addresses == {SPLIT, WAY, WEB}, turn
        assert dict(federation.workloads) == dict(local.workloads)
        assert dict(federation.services) == dict(local.services)
    assert not federation.leave("two").addresses
    leftovers = {
        name: value
        for name, value in vars(federation).items()
        if name not in ("_local", "_scopes") and value
    }
    assert leftovers == {}


def test_a_change_is_told_once_and_only_where_it_matters():
    federation = Federation(cluster("one", "near", web()))
    index = far(web("10.97.0.1"), web_pod("a", "10.2.0.1"))
    federation.join("two", index)
    assert apply(federation, index, "Service", service("own", "shop", "10.97.0.7")) == frozenset()
    assert apply(federation, index, "Pod", pod("alone", "shop", "10.2.0.7")) == frozenset()
    labelled = web_pod("a", "10.2.0.1")[1]
    labelled["metadata"]["labels"]["colour"] = "red"
    assert apply(federation, index, "Pod", labelled) == frozenset()


def test_our_own_changes_reach_the_merged_service():
    local = cluster("one", "near", web())
    federation = Federation(local)
    federation.join("two", far(web("10.97.0.1"), web_pod("a", "10.2.0.1")))
    renumbered = service("web", "shop", "10.96.0.5", selector={"app": "web"}, labels=GLOBAL)
    changes = federation.absorb(local.apply("Service", renumbered))
    assert WEB in changes.addresses
    assert {str(one.ip) for one in federation.services[WEB].addresses} == {"10.96.0.5", "10.97.0.1"}
    federation.absorb(local.remove("Service", "shop", "web"))
    assert {str(one.ip) for one in federation.services[WEB].addresses} == {"10.97.0.1"}
    assert federation.workloads[SPLIT].status is WorkloadStatus.HEALTHY


def test_alone_nothing_is_different():
    local = cluster("one", "", web(), web_pod("here", "10.1.0.1"))
    federation = Federation(local)
    changes = local.apply(*web_pod("more", "10.1.0.2"))
    assert federation.absorb(changes) is changes
    assert dict(federation.workloads) == dict(local.workloads)
