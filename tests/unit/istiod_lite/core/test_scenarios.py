"""Scenarios of Istio's own tests of the ambient index, by what they are about.

``docs/istiod.md`` lists all of them with the test that holds each; these are the ones that are
about several objects at once and are not told elsewhere.
"""

from ipaddress import ip_address

import pytest

from ambient.api.address import NetworkAddress
from ambient.api.service import Port
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.snapshot import AddressSource, Publisher
from istiod_lite.core.waypoints import Reason
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    mesh_config,
    namespace,
    pod,
    policy,
    service,
    service_entry,
    workload_entry,
)

WEB, SERVICE = "Kubernetes//Pod/shop/web", "shop/web.shop.svc.cluster.local"
HOSTNAME = ("Hostname", "wp.shop.svc.cluster.local")
HOST = "db.example.com"
USE = {"istio.io/use-waypoint": "wp"}


def web(**labels):
    return pod("web", "shop", "10.0.0.1", labels={"app": "web", **labels})


def web_service(labels=None):
    return service("web", "shop", "10.96.0.1", selector={"app": "web"}, labels=labels)


@pytest.fixture
def index():
    return small_mesh()


def small_mesh(facts=None):
    made = Index(facts)
    made.load(
        {
            "Namespace": [namespace("shop"), namespace("other"), namespace("istio-system")],
            "Pod": [web()],
            "Service": [web_service()],
        }
    )
    return made


# Networks and clusters.


def test_network_and_cluster_are_on_everything():
    index = small_mesh(MeshFacts(cluster_id="c1", network="n1"))
    found = index.workloads["c1//Pod/shop/web"]
    assert (found.cluster_id, found.network) == ("c1", "n1")
    assert index.services[SERVICE].addresses == (NetworkAddress("n1", ip_address("10.96.0.1")),)


def test_the_system_namespaces_network_label_moves_everything(index):
    labelled = namespace("istio-system", topology__istio_io="")
    labelled["metadata"]["labels"] = {"topology.istio.io/network": "n2"}
    assert index.apply("Namespace", labelled).addresses == {WEB, SERVICE}
    assert index.workloads[WEB].network == "n2"
    assert index.services[SERVICE].addresses[0].network == "n2"
    assert index.apply("Namespace", namespace("istio-system")).addresses == {WEB, SERVICE}
    assert index.workloads[WEB].network == ""


# One hostname, several objects.


def entry(name, where="shop", created="2026-01-01", **spec):
    return service_entry(name, where, HOST, created=created, **spec)


def test_the_older_of_two_entries_is_the_host_until_it_goes(index):
    endpoints = [{"address": "192.0.2.1"}]
    old = "Kubernetes/networking.istio.io/ServiceEntry/shop/old/192.0.2.1"
    new = "Kubernetes/networking.istio.io/ServiceEntry/shop/new/192.0.2.1"
    name = f"shop/{HOST}"
    index.apply("ServiceEntry", entry("new", created="2026-05-05", endpoints=endpoints))
    assert index.services[name].name == "new"
    changes = index.apply("ServiceEntry", entry("old", endpoints=endpoints))
    assert changes.addresses == {name, old, new}
    assert (index.services[name].name, new in index.workloads) == ("old", False)
    assert index.remove("ServiceEntry", "shop", "old").addresses == {name, old, new}
    assert index.services[name].name == "new"


def test_canonical_is_one_in_the_mesh_and_moves(index):
    index.apply("ServiceEntry", entry("a", created="2025-01-01"))
    index.apply("ServiceEntry", entry("b", "other"))
    flags = {name: one.canonical for name, one in index.services.items() if HOST in name}
    assert flags == {f"shop/{HOST}": True, f"other/{HOST}": False}
    changes = index.remove("ServiceEntry", "shop", "a")
    assert changes.addresses == {f"shop/{HOST}", f"other/{HOST}"}
    assert index.services[f"other/{HOST}"].canonical


def test_a_kubernetes_service_beats_every_entry_of_its_name(index):
    host = "web.shop.svc.cluster.local"
    index.apply("ServiceEntry", service_entry("e", "shop", host, created="2020-01-01"))
    index.apply("ServiceEntry", service_entry("e", "other", host, created="2020-01-01"))
    assert index.services[SERVICE].name == "web"
    assert index.services[SERVICE].canonical
    assert not index.services[f"other/{host}"].canonical
    index.remove("Service", "shop", "web")
    assert index.services[SERVICE].name == "e"


# Waypoints.


def test_clients_get_a_waypoint_and_the_waypoint_itself_has_none(index):
    labels = {
        "gateway.networking.k8s.io/gateway-name": "wp",
        "gateway.istio.io/managed": "istio.io-mesh-controller",
    }
    everything = {"istio.io/waypoint-for": "all"}
    index.apply("Namespace", {"metadata": {"name": "shop", "labels": USE}})
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME, labels=everything))
    index.apply("Service", service("wp", "shop", "10.96.0.9", labels=labels))
    first = index.apply("Pod", pod("wp-0", "shop", "10.0.0.8", labels=labels))
    assert first.addresses == {"Kubernetes//Pod/shop/wp-0"}
    second = index.apply("Pod", pod("wp-1", "shop", "10.0.0.9", labels=labels))
    assert second.addresses == {"Kubernetes//Pod/shop/wp-1"}
    assert index.workloads[WEB].waypoint is not None
    assert index.services[SERVICE].waypoint is not None
    assert index.workloads["Kubernetes//Pod/shop/wp-0"].waypoint is None
    assert index.services["shop/wp.shop.svc.cluster.local"].waypoint is None


def test_pods_of_a_foreign_waypoint_have_none_and_may_want_proxy_headers(index):
    made = gateway("wp", "shop", HOSTNAME, labels={"istio.io/waypoint-for": "all"})
    made["spec"]["gatewayClassName"] = "sandwich"
    index.apply("Namespace", {"metadata": {"name": "shop", "labels": USE}})
    index.apply("Gateway", made)
    labels = {"gateway.networking.k8s.io/gateway-name": "wp"}
    index.apply("Pod", pod("wp-0", "shop", "10.0.0.8", labels=labels))
    found = index.workloads["Kubernetes//Pod/shop/wp-0"]
    assert (found.waypoint, found.application_tunnel) == (None, None)
    annotations = {"ambient.istio.io/waypoint-inbound-binding": "PROXY/15088"}
    class_ = gateway_class("sandwich", "x", annotations=annotations)
    assert index.apply("GatewayClass", class_).addresses == {"Kubernetes//Pod/shop/wp-0"}
    tunnel = index.workloads["Kubernetes//Pod/shop/wp-0"].application_tunnel
    assert tunnel == ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088)


@pytest.mark.parametrize("address", [HOSTNAME, ("IPAddress", "10.96.0.9")])
def test_services_of_a_waypoint_however_it_is_addressed(index, address):
    index.apply("Gateway", gateway("wp", "shop", address))
    index.apply("Service", web_service(USE))
    wp = ObjectKey("shop", "wp")
    assert list(index.bindings.bound(wp)) == [ObjectRef("Service", ObjectKey("shop", "web"))]
    index.apply("Service", web_service())
    assert list(index.bindings.bound(wp)) == []


def test_each_label_moves_exactly_what_it_is_on(index):
    for name in ("wp", "wp2"):
        made = gateway(name, "shop", ("IPAddress", "10.96.0.9" if name == "wp" else "10.96.0.8"))
        made["metadata"]["labels"] = {"istio.io/waypoint-for": "workload"}
        index.apply("Gateway", made)

    def after(kind, obj):
        changes = index.apply(kind, obj)
        at = index.workloads[WEB].waypoint
        return set(changes.addresses), str(at.destination.ip) if at else None

    labelled = {"metadata": {"name": "shop", "labels": USE}}
    assert after("Pod", web(**USE)) == ({WEB}, "10.96.0.9")
    assert after("Pod", web(**{"istio.io/use-waypoint": "wp2"})) == ({WEB}, "10.96.0.8")
    assert after("Namespace", labelled) == (set(), "10.96.0.8")
    assert after("Pod", web()) == ({WEB}, "10.96.0.9")
    assert after("Pod", web(**{"istio.io/use-waypoint": "none"})) == ({WEB}, None)
    assert after("Namespace", namespace("shop")) == (set(), None)


def test_leaving_a_waypoint_names_it(index):
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    target = {"targetRefs": [{"kind": "Service", "group": "", "name": "web"}]}
    index.apply("AuthorizationPolicy", policy("l7", "shop", target))
    joined = index.apply("Service", web_service(USE))
    left = index.apply("Service", web_service())
    wp = {ObjectKey("shop", "wp")}
    assert (joined.gateways, joined.waypoints) == (wp, wp)
    assert (left.gateways, left.waypoints) == (wp, wp)


# The admission of waypoints.

ALLOW = {"rules": [{"from": [{"source": {"namespaces": ["other"]}}]}]}
ONLY_WEB = {"selector": {"matchLabels": {"app": "web"}}, **ALLOW}
ADMISSION = "shop/istio_allow_waypoint_shop_wp"


def waypointed(facts=None):
    made = small_mesh(facts)
    made.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    made.apply("Service", web_service(USE))
    return made


def test_pain_21_a_waypoint_is_admitted_where_an_allow_policy_would_refuse_it():
    index = waypointed()
    assert ADMISSION in index.authorizations
    assert index.workloads[WEB].authorization_policies == ()
    index.apply("AuthorizationPolicy", policy("p", "shop", ONLY_WEB))
    assert index.workloads[WEB].authorization_policies == ("shop/p", ADMISSION)
    index.apply("Service", web_service())
    assert index.workloads[WEB].authorization_policies == ("shop/p",)


@pytest.mark.parametrize("where", ["shop", "istio-system"])
def test_pain_21_policies_of_a_namespace_or_the_mesh_count_too(where):
    index = waypointed()
    changes = index.apply("AuthorizationPolicy", policy("p", where, ALLOW))
    assert changes.addresses == {WEB}
    assert index.workloads[WEB].authorization_policies == (ADMISSION,)
    assert index.remove("AuthorizationPolicy", where, "p").addresses == {WEB}


def test_pain_21_without_allow_policies_the_admission_would_refuse_everybody_else():
    index = waypointed()
    index.apply("AuthorizationPolicy", policy("d", "shop", {"action": "DENY", **ONLY_WEB}))
    assert index.workloads[WEB].authorization_policies == ("shop/d",)


def test_pain_21_both_waypoints_of_a_canary_are_admitted():
    index = waypointed()
    index.apply("Gateway", gateway("wp2", "shop", ("IPAddress", "10.96.0.8")))
    labelled = web_service({**USE, "istio.io/use-waypoint-canary": "wp2"})
    labelled["metadata"]["annotations"] = {"istio.io/use-waypoint-canary-weight": "5"}
    index.apply("Service", labelled)
    index.apply("AuthorizationPolicy", policy("p", "shop", ONLY_WEB))
    admitted = index.workloads[WEB].authorization_policies
    assert admitted == ("shop/p", ADMISSION, "shop/istio_allow_waypoint_shop_wp2")


def test_pain_21_the_admission_can_be_switched_off():
    index = waypointed(MeshFacts(allow_waypoints=False))
    index.apply("AuthorizationPolicy", policy("p", "shop", ONLY_WEB))
    assert ADMISSION not in index.authorizations
    assert index.workloads[WEB].authorization_policies == ("shop/p",)


# ServiceEntries and WorkloadEntries.

VM = "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm"
SELECTS = {"workloadSelector": {"labels": {"app": "web"}}}


def test_an_entrys_selector_takes_pods_and_workload_entries_of_its_namespace(index):
    index.apply("Pod", pod("far", "other", "10.0.0.5", labels={"app": "web"}))
    labels = {"app": "web"}
    vm = workload_entry("vm", "shop", "192.0.2.1", labels=labels, ports={"http": 8081})
    index.apply("WorkloadEntry", vm)
    changes = index.apply("ServiceEntry", service_entry("e", "shop", HOST, **SELECTS))
    assert changes.addresses == {WEB, VM, f"shop/{HOST}"}
    ports = {str(key): value for key, value in index.workloads[VM].services.items()}
    assert ports == {f"shop/{HOST}": (Port(80, 8081),), SERVICE: (Port(80, 8081),)}
    assert len(index.workloads["Kubernetes//Pod/other/far"].services) == 0


@pytest.mark.parametrize(
    ("facts", "pod_in", "vm_in"),
    [
        (MeshFacts(), {f"shop/{HOST}", SERVICE}, {f"shop/{HOST}", SERVICE}),
        (
            MeshFacts(services_select_workload_entries=False),
            {f"shop/{HOST}", SERVICE},
            {f"shop/{HOST}"},
        ),
        (MeshFacts(service_entries_select_pods=False), {SERVICE}, {f"shop/{HOST}", SERVICE}),
    ],
)
def test_who_may_select_whom(facts, pod_in, vm_in):
    index = small_mesh(facts)
    index.apply("WorkloadEntry", workload_entry("vm", "shop", "192.0.2.1", labels={"app": "web"}))
    index.apply("ServiceEntry", service_entry("e", "shop", HOST, **SELECTS))
    assert {str(key) for key in index.workloads[WEB].services} == pod_in
    assert {str(key) for key in index.workloads[VM].services} == vm_in


def published(index):
    publisher = Publisher()
    publisher.advance(index, index.settle())
    return AddressSource(publisher.snapshot, labels=False, node="")


def test_an_address_that_two_workloads_share_finds_both():
    index = Index()
    index.stage("Namespace", namespace("shop"))
    index.stage("Pod", web())
    index.stage("WorkloadEntry", workload_entry("vm", "shop", "10.0.0.1"))
    assert set(published(index).find("/10.0.0.1")) == {WEB, VM}


def test_an_entry_without_address_is_found_by_its_uid_only():
    index = Index()
    index.stage("WorkloadEntry", workload_entry("vm", "shop", ""))
    source = published(index)
    assert list(source.find(VM)) == [VM]
    assert index.workloads[VM].addresses == ()


def test_policies_select_entries_by_their_labels(index):
    index.apply("WorkloadEntry", workload_entry("vm", "shop", "192.0.2.1", labels={"app": "web"}))
    endpoint = "Kubernetes/networking.istio.io/ServiceEntry/shop/e/192.0.2.2"
    index.apply(
        "ServiceEntry",
        service_entry(
            "e", "shop", HOST, labels={"app": "web"}, endpoints=[{"address": "192.0.2.2"}]
        ),
    )
    changes = index.apply("AuthorizationPolicy", policy("p", "shop", ONLY_WEB))
    assert changes.addresses == {WEB, VM, endpoint}
    assert index.workloads[endpoint].authorization_policies == ("shop/p",)


@pytest.mark.parametrize(
    ("waypoint_for", "on_entry", "on_namespace", "ready", "want"),
    [
        ("workload", USE, {}, True, "WaypointAccepted"),
        ("workload", USE, {}, False, "WaypointIsNotReady"),
        ("workload", {}, {}, True, None),
        ("service", {}, USE, True, None),
        ("service", USE, {}, True, "UnsupportedTrafficType"),
        ("all", {}, USE, True, "WaypointAccepted"),
    ],
)
def test_conditions_of_workload_entries(index, waypoint_for, on_entry, on_namespace, ready, want):
    labels = {"istio.io/waypoint-for": waypoint_for}
    addresses = (HOSTNAME,) if ready else ()
    index.apply("Gateway", gateway("wp", "shop", *addresses, labels=labels))
    index.apply("Namespace", {"metadata": {"name": "shop", "labels": on_namespace}})
    index.apply("WorkloadEntry", workload_entry("vm", "shop", "192.0.2.1", labels=on_entry))
    found = index.wanted(ObjectRef("WorkloadEntry", ObjectKey("shop", "vm")))
    assert [one.reason for one in found] == ([want] if want else [])


@pytest.mark.parametrize(
    ("hosts", "spec", "addresses", "waypoint", "reasons"),
    [
        # What a client connects to, and through which waypoint: both are on the ServiceEntry.
        ([HOST], {"resolution": "DNS"}, 1, True, ["WaypointAccepted"]),
        ([HOST], {"addresses": ["192.0.2.7"]}, 1, True, ["WaypointAccepted"]),
        # A host that has no address cannot be bound to anything, and says so.
        (["*.example.com"], {"resolution": "NONE"}, 0, False, ["NoWaypointForWildcardService"]),
    ],
)
def test_pain_29_a_service_entry_says_which_address_and_which_waypoint(
    index, hosts, spec, addresses, waypoint, reasons
):
    labels = USE if waypoint else {}
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    entry = service_entry("e", "shop", *hosts, labels=labels, **spec)
    if "addresses" not in spec and addresses:
        entry["status"] = {"addresses": [{"host": hosts[0], "value": "240.240.0.1"}]}
    index.apply("ServiceEntry", entry)
    service = index.services[f"shop/{hosts[0]}"]
    assert len(service.addresses) == addresses
    assert (service.waypoint is not None) is waypoint
    found = index.wanted(ObjectRef("ServiceEntry", ObjectKey("shop", "e")))
    assert [one.reason for one in found] == reasons
    if waypoint:
        assert "shop/wp" in found[0].message


def test_a_private_entry_may_not_use_another_namespaces_waypoint(index):
    index.apply("Gateway", gateway("wp", "other", HOSTNAME, allowed={"from": "All"}))
    labels = {**USE, "istio.io/use-waypoint-namespace": "other"}
    index.apply("ServiceEntry", service_entry("e", "shop", HOST, labels=labels))
    ref = ObjectRef("ServiceEntry", ObjectKey("shop", "e"))
    assert index.bindings.get(ref).reason is Reason.ACCEPTED
    private = "serviceEntryVisibility: {defaultVisibility: NAMESPACE}"
    index.apply("MeshConfig", mesh_config(private))
    assert index.bindings.get(ref).reason is Reason.OTHER_NAMESPACE
    assert index.services[f"shop/{HOST}"].waypoint is None
    assert [one.reason for one in index.wanted(ref)] == [
        "CrossNamespaceWaypointForbidden",
        "Namespace",
    ]


@pytest.mark.parametrize(
    ("default", "label", "of_namespace", "want"),
    [
        (True, None, None, True),
        (True, "false", None, False),
        (True, None, "false", False),
        (True, "true", "false", True),
        (False, None, None, False),
        (False, "true", None, True),
        (False, "nonsense", None, False),
    ],
)
def test_pain_18_ingress_uses_the_waypoint_unless_somebody_says_no(
    default, label, of_namespace, want
):
    index = small_mesh(MeshFacts(ingress_use_waypoint=default))
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    key = "istio.io/ingress-use-waypoint"
    if of_namespace:
        index.apply("Namespace", {"metadata": {"name": "shop", "labels": {key: of_namespace}}})
    index.apply("Service", web_service({**USE, **({key: label} if label else {})}))
    assert index.services[SERVICE].ingress_use_waypoint is want
    (found,) = index.wanted(ObjectRef("Service", ObjectKey("shop", "web")))
    assert ("do use" if want else "do not use") in found.message
    index.apply("Service", web_service())
    assert not index.services[SERVICE].ingress_use_waypoint


def test_pain_45_only_what_runs_counts_and_only_what_is_ready_is_healthy(index):
    states = [
        ("Pending", "", "False", None),
        ("Pending", "10.0.0.7", "False", "UNHEALTHY"),
        ("Running", "10.0.0.7", "False", "UNHEALTHY"),
        ("Running", "10.0.0.7", "True", "HEALTHY"),
        ("Succeeded", "10.0.0.7", "False", None),
        ("Failed", "10.0.0.7", "True", None),
    ]
    for phase, ip, ready, want in states:
        made = pod("job", "shop", ip, labels={"app": "web"})
        made["status"] |= {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}
        index.apply("Pod", made)
        found = index.workloads.get("Kubernetes//Pod/shop/job")
        assert (found.status.name if found else None) == want
        assert found is None or SERVICE in map(str, found.services)
    made["status"] |= {"phase": "Running"}
    made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    index.apply("Pod", made)
    assert index.workloads["Kubernetes//Pod/shop/job"].status.name == "UNHEALTHY"
