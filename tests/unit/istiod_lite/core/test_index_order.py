"""The index gives the same result in any order of objects, and tells exactly what changed."""

import copy
import random

import pytest

from istiod_lite.core.index import Index
from istiod_lite.core.inputs import key_of
from tests.unit.istiod_lite.core.test_backend_policies import policy as backend_policy
from tests.unit.istiod_lite.core.test_index import HOSTNAME, config, slice_, web_pod, web_service
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    grant,
    mesh_config,
    namespace,
    node,
    peer_authentication,
    pod,
    policy,
    route,
    service,
    service_entry,
    workload_entry,
)


def everything():
    ref = {"kind": "Pod", "name": "api", "namespace": "shop"}
    bare = service("bare", "shop", "10.96.0.3")
    bare_slice = slice_(
        "bare-1", [{"addresses": ["10.0.0.2"], "targetRef": ref}, {"addresses": ["192.0.2.7"]}]
    )
    bare_slice["metadata"]["labels"]["kubernetes.io/service-name"] = "bare"
    labelled = namespace("shop")
    labelled["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
    selecting = {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}
    return [
        ("Namespace", labelled),
        ("Namespace", namespace("istio-system")),
        ("Node", node("n1")),
        ("Gateway", gateway("wp", "shop", HOSTNAME, labels={"istio.io/waypoint-for": "all"})),
        ("Pod", web_pod()),
        ("Pod", pod("api", "shop", "10.0.0.2", labels={"app": "api"})),
        ("Service", web_service()),
        ("Service", bare),
        ("EndpointSlice", bare_slice),
        ("AuthorizationPolicy", policy("p", "shop", selecting)),
        ("AuthorizationPolicy", policy("root", "istio-system", selecting)),
        ("PeerAuthentication", peer_authentication("mesh", "istio-system", "STRICT")),
        ("PeerAuthentication", peer_authentication("n", "shop", "UNSET")),
        (
            "PeerAuthentication",
            peer_authentication("w", "shop", app="web", ports={80: "PERMISSIVE"}),
        ),
        ("VirtualService", config("VirtualService", "v", "shop", hosts=["web"])),
        ("VirtualService", config("VirtualService", "w", "shop", hosts=["*.example.com"])),
        (
            "VirtualService",
            config(
                "VirtualService",
                "root",
                "shop",
                hosts=["web"],
                http=[{"delegate": {"name": "inner"}}],
            ),
        ),
        ("VirtualService", config("VirtualService", "inner", "shop", http=[{"route": []}])),
        ("DestinationRule", config("DestinationRule", "d", "shop", host="one.example.com")),
        *outside(),
        *attached(),
    ]


def outside():
    """Hosts and workloads outside Kubernetes, and a gateway to another network."""
    endpoint = {"address": "192.0.2.1", "labels": {"istio.io/use-waypoint": "wp"}}
    far = {"address": "192.0.2.2", "network": "far"}
    labels = {"app": "web"}
    remote = gateway("far", "istio-system", labels={"topology.istio.io/network": "far"})
    remote["spec"]["gatewayClassName"] = "istio-remote"
    remote["spec"]["addresses"] = [{"type": "IPAddress", "value": "198.51.100.1"}]
    network = namespace("istio-system", topology__istio_io__network="n1")
    visible = "serviceEntryVisibility: {policies: [{matchingRules: [{namespaceSelector: {}}]}]}"
    private = "serviceEntryVisibility: {defaultVisibility: NAMESPACE}"
    found = [
        service_entry("one", "shop", "one.example.com", endpoints=[endpoint, far], labels=labels),
        service_entry("one", "other", "one.example.com", created="2025-01-01", resolution="DNS"),
        service_entry("two", "shop", "one.example.com", "two.example.com", created="2025-06-01"),
        service_entry(
            "pods",
            "shop",
            "pods.example.com",
            "web.shop.svc.cluster.local",
            workloadSelector={"labels": labels},
            created="2024-01-01",
        ),
        service_entry("none", "shop", "*.example.com", resolution="NONE"),
    ]
    return [
        *(("ServiceEntry", one) for one in found),
        ("WorkloadEntry", workload_entry("vm", "shop", "192.0.2.3", labels=labels)),
        ("WorkloadEntry", workload_entry("far", "shop", "vm.example.com", network="far")),
        ("Gateway", remote),
        ("Namespace", network),
        ("Namespace", namespace("other", istio_io__use_waypoint="wp")),
        ("GatewayClass", gateway_class(labels={"istio.io/waypoint-for": "all"})),
        ("MeshConfig", mesh_config(visible)),
        ("MeshConfig", mesh_config(private)),
        (
            "MeshConfig",
            mesh_config("discoverySelectors: [{matchLabels: {istio.io/use-waypoint: wp}}]"),
        ),
    ]


def attached():
    """What hangs on services and waypoints."""
    canary = service("canary", "shop", "10.96.0.4", labels={"istio.io/use-waypoint": "wp"})
    canary["metadata"]["labels"]["istio.io/use-waypoint-canary"] = "wp2"
    canary["metadata"]["annotations"] = {"istio.io/use-waypoint-canary-weight": "10"}
    on_service = {"group": "", "kind": "Service", "name": "web"}
    on_gateway = {"kind": "Gateway", "name": "wp"}
    abroad = [{"backendRefs": [{"name": "api", "namespace": "other", "port": 80}]}]
    instance = {"gateway.networking.k8s.io/gateway-name": "manual"}
    manual = gateway("manual", "shop", ("IPAddress", "10.96.0.9"))
    manual["spec"]["gatewayClassName"] = "somebody-elses"
    targets = [{"kind": "Service", "name": "web"}, {"kind": "Gateway", "name": "wp"}]
    entry = [{"kind": "ServiceEntry", "group": "networking.istio.io", "name": "one"}]
    return [
        ("Service", canary),
        ("Gateway", gateway("wp2", "shop", HOSTNAME)),
        ("Gateway", manual),
        ("Pod", pod("manual-0", "shop", "10.0.0.8", account="manual", labels=instance)),
        ("HTTPRoute", route("r", "shop", on_service)),
        ("HTTPRoute", route("g", "shop", on_gateway, rules=abroad)),
        ("HTTPRoute", route("far", "other", {**on_gateway, "namespace": "shop"})),
        ("TCPRoute", route("r", "shop", on_service, kind="TCPRoute")),
        ("ReferenceGrant", grant("g", "other", "shop")),
        ("BackendTLSPolicy", backend_policy(name="old", created="2026-01-01")),
        ("BackendTLSPolicy", backend_policy(name="new", created="2026-02-02")),
        ("AuthorizationPolicy", policy("wide", "shop", {"rules": [{}]})),
        ("AuthorizationPolicy", policy("l7", "shop", {"targetRefs": targets})),
        ("AuthorizationPolicy", policy("entry", "shop", {"targetRefs": entry})),
    ]


def state(index):
    return copy.deepcopy(
        (
            dict(index.workloads),
            dict(index.services),
            dict(index.authorizations),
            index.inputs.configs,
            dict(index.bindings.items()),
            index.world.statuses,
            {
                key: set(names)
                for key in index.inputs.gateways
                if (names := index.configs_for_waypoint(*key))
            },
        )
    )


def from_scratch(found):
    index = Index()
    for kind, obj in found:
        index.stage(kind, obj)
    index.settle()
    return index


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_arrivals_and_departures_ends_as_from_scratch(seed):
    chance = random.Random(seed)
    index, held = Index(), {}
    steps = [*everything(), *everything(), *everything()]
    chance.shuffle(steps)
    for kind, obj in steps:
        before = state(index)
        key = kind, key_of(obj)
        if key in held and chance.random() < 0.6:
            del held[key]
            changes = index.remove(kind, *key[1])
        else:
            held[key] = obj
            changes = index.apply(kind, obj)
        after = state(index)
        assert changes.addresses | changes.labels == different(before[0], after[0]) | different(
            before[1], after[1]
        )
        assert changes.authorizations == different(before[2], after[2])
        assert changes.configs == different(before[3], after[3])
        told = {ref for ref in different(before[5], after[5]) if index.status_differs(ref)}
        assert changes.statuses >= told
        assert changes.waypoints >= different(before[6], after[6]) & after[6].keys()
        wanted = from_scratch([(kind, obj) for (kind, _), obj in held.items()])
        assert after == state(wanted)


def different(before, after):
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
