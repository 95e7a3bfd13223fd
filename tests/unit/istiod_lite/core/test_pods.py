"""Pod to workload."""

from ipaddress import ip_address

import pytest

from ambient.api.service import NamespacedHostname, Port
from ambient.api.workload import (
    Locality,
    NetworkMode,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
)
from ambient.kube.core import objects
from istiod_lite.core import pods
from istiod_lite.core.facts import MeshFacts
from tests.unit.istiod_lite.objects import node, pod, service

FACTS = MeshFacts()


def read(obj):
    return objects.decode(obj, objects.Pod)


def test_the_whole_value():
    raw = pod("web-1", "shop", "10.0.0.1", account="web", labels={"app": "web", "version": "v2"})
    raw["metadata"]["annotations"] = {"ambient.istio.io/redirection": "enabled"}
    around = pods.Surroundings(
        node=objects.decode(node("n1"), objects.Node),
        services={NamespacedHostname("shop", "web.shop.svc.cluster.local"): (Port(80, 8080),)},
        policies=("shop/p",),
    )
    assert pods.translate(read(raw), around, FACTS) == Workload(
        uid="Kubernetes//Pod/shop/web-1",
        name="web-1",
        namespace="shop",
        addresses=(ip_address("10.0.0.1"),),
        tunnel_protocol=TunnelProtocol.HBONE,
        service_account="web",
        node="n1",
        canonical_name="web",
        canonical_revision="v2",
        workload_name="web-1",
        authorization_policies=("shop/p",),
        cluster_id="Kubernetes",
        services=around.services,
        locality=Locality("r", "z1"),
        labels={"app": "web", "version": "v2"},
    )


@pytest.mark.parametrize(
    ("phase", "ip", "want"),
    [
        ("Pending", "", False),
        ("Pending", "10.0.0.1", True),
        ("Running", "10.0.0.1", True),
        ("Succeeded", "10.0.0.1", False),
        ("Failed", "10.0.0.1", False),
    ],
)
def test_which_pods_are_workloads(phase, ip, want):
    raw = pod("a", "shop", ip)
    raw["status"]["phase"] = phase
    assert pods.is_in_mesh(read(raw)) is want


@pytest.mark.parametrize(
    ("annotation", "label", "protocol", "native"),
    [
        (None, None, TunnelProtocol.NONE, False),
        ("pending", None, TunnelProtocol.NONE, False),
        ("enabled", None, TunnelProtocol.HBONE, False),
        (None, "http", TunnelProtocol.HBONE, True),
    ],
)
def test_how_peers_reach_it(annotation, label, protocol, native):
    raw = pod(
        "a", "shop", "10.0.0.1", labels={"networking.istio.io/tunnel": label} if label else {}
    )
    raw["metadata"]["annotations"] = (
        {"ambient.istio.io/redirection": annotation} if annotation else {}
    )
    made = pods.translate(read(raw), pods.Surroundings(), FACTS)
    assert (made.tunnel_protocol, made.native_tunnel) == (protocol, native)


def test_health_and_network_mode():
    raw = pod("a", "shop", "10.0.0.1")
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    raw["spec"]["hostNetwork"] = True
    made = pods.translate(read(raw), pods.Surroundings(), FACTS)
    assert made.status is WorkloadStatus.UNHEALTHY
    assert made.network_mode is NetworkMode.HOST_NETWORK


@pytest.mark.parametrize(
    ("kind", "owner", "labels", "want"),
    [
        ("ReplicaSet", "web-5d8f", {"pod-template-hash": "5d8f"}, "web"),
        ("ReplicaSet", "web-5d8f", {"rollouts-pod-template-hash": "5d8f"}, "web"),
        ("ReplicaSet", "web", {}, "web"),
        ("Job", "backup-28123456", {}, "backup"),
        ("Job", "backup", {}, "backup"),
        ("StatefulSet", "db", {}, "db"),
        ("ReplicationController", "x-1", {"deploymentconfig": "x"}, "x"),
    ],
)
def test_the_name_that_a_person_gave(kind, owner, labels, want):
    metadata = objects.Metadata(
        name="some-pod",
        generate_name=f"{owner}-",
        labels=labels,
        owner_references=(objects.OwnerReference(kind=kind, name=owner, controller=True),),
    )
    assert pods.owner_name(metadata) == want


@pytest.mark.parametrize(
    ("target", "want"),
    [(8080, (Port(80, 8080),)), (None, (Port(80, 80),)), ("web", (Port(80, 8080),)), ("no", ())],
)
def test_target_ports(target, want):
    made = service("s", "shop", "10.96.0.1", selector={"app": "a"})
    made["spec"]["ports"] = [{"port": 80, "targetPort": target}]
    target = read(pod("a", "shop", "10.0.0.1", labels={"app": "a"}))
    assert pods.target_ports(target, objects.decode(made, objects.Service)) == want


def test_named_port_of_a_lasting_init_container():
    raw = pod("a", "shop", "10.0.0.1")
    ports = [{"name": "side", "containerPort": 9}]
    raw["spec"]["initContainers"] = [{"ports": ports}, {"ports": ports, "restartPolicy": "Always"}]
    assert pods.container_port(read(raw), "side") == 9
    raw["spec"]["initContainers"].pop()
    assert pods.container_port(read(raw), "side") is None
