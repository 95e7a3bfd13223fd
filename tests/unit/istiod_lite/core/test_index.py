"""The index: exact changed keys, and the same result in whatever order objects come."""

import pytest

from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.waypoints import Reason
from tests.unit.istiod_lite.objects import (
    gateway,
    namespace,
    node,
    peer_authentication,
    pod,
    policy,
    service,
)

WEB, API = "Kubernetes//Pod/shop/web", "Kubernetes//Pod/shop/api"
WEB_SERVICE = "shop/web.shop.svc.cluster.local"
WEB_REF = ObjectRef("Service", ObjectKey("shop", "web"))
STATIC = "istio-system/istio_converted_static_strict"
HOSTNAME = ("Hostname", "wp.shop.svc.cluster.local")


def web_pod(**labels):
    return pod("web", "shop", "10.0.0.1", labels={"app": "web", **labels})


def web_service(**labels):
    pairs = {"istio.io/" + key.replace("_", "-"): value for key, value in labels.items()}
    return service("web", "shop", "10.96.0.1", selector={"app": "web"}, labels=pairs)


def small_mesh():
    index = Index()
    index.load(
        {
            "Namespace": [namespace("shop"), namespace("other"), namespace("istio-system")],
            "Node": [node("n1")],
            "Pod": [web_pod(), pod("api", "shop", "10.0.0.2", labels={"app": "api"})],
            "Service": [web_service()],
        }
    )
    return index


@pytest.fixture
def index():
    return small_mesh()


def slice_(name, endpoints, **more):
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 9000}],
        **more,
    }


def test_what_a_loaded_mesh_has(index):
    assert set(index.workloads) == {WEB, API}
    assert set(index.services) == {WEB_SERVICE}
    assert [str(key) for key in index.workloads[WEB].services] == [WEB_SERVICE]
    assert index.workloads[API].services == {}


def test_the_same_object_again_changes_nothing(index):
    changes = index.apply("Pod", web_pod())
    assert (changes.addresses, changes.labels) == (frozenset(), frozenset())


def test_what_proxies_do_not_see_changes_nothing(index):
    annotated = web_pod()
    annotated["metadata"]["annotations"] = {"kubectl": "x"}
    assert index.apply("Pod", annotated).addresses == frozenset()
    assert index.apply("Namespace", namespace("shop", team="x")).addresses == frozenset()


def test_labels_matter_to_waypoints_only(index):
    changes = index.apply("Pod", web_pod(colour="red"))
    assert (changes.addresses, changes.labels) == (frozenset(), {WEB})


def test_pod_comes_and_goes(index):
    assert index.apply("Pod", pod("x", "shop", "")).addresses == frozenset()
    assert index.apply("Pod", pod("x", "shop", "10.0.0.3")).addresses == {"Kubernetes//Pod/shop/x"}
    finished = pod("x", "shop", "10.0.0.3")
    finished["status"]["phase"] = "Succeeded"
    assert index.apply("Pod", finished).addresses == {"Kubernetes//Pod/shop/x"}
    assert "Kubernetes//Pod/shop/x" not in index.workloads


def test_an_edited_selector_moves_pods_not_the_service(index):
    changed = web_service()
    changed["spec"]["selector"] = {"app": "api"}
    assert index.apply("Service", changed).addresses == {WEB, API}
    assert index.remove("Service", "shop", "web").addresses == {WEB_SERVICE, API}


def test_zone_of_a_node(index):
    assert index.apply("Node", node("n1", zone="z2")).addresses == {WEB, API}
    assert index.apply("Node", node("n2")).addresses == frozenset()


def test_selector_policy_touches_itself_and_the_pods_it_selects(index):
    spec = {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}
    changes = index.apply("AuthorizationPolicy", policy("p", "shop", spec))
    assert (changes.addresses, changes.authorizations) == ({WEB}, {"shop/p"})
    assert index.workloads[WEB].authorization_policies == ("shop/p",)
    changes = index.apply("Pod", pod("web", "shop", "10.0.0.1", labels={"app": "x"}))
    assert WEB in changes.addresses
    assert index.workloads[WEB].authorization_policies == ()
    changes = index.remove("AuthorizationPolicy", "shop", "p")
    assert (changes.addresses, changes.authorizations) == (frozenset(), {"shop/p"})


def test_root_policies_select_everywhere_others_only_at_home(index):
    spec = {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}
    assert index.apply("AuthorizationPolicy", policy("r", "istio-system", spec)).addresses == {WEB}
    assert index.apply("AuthorizationPolicy", policy("o", "other", spec)).addresses == frozenset()
    assert index.workloads[WEB].authorization_policies == ("istio-system/r",)


def test_namespace_policy_touches_only_itself(index):
    changes = index.apply("AuthorizationPolicy", policy("p", "shop", {"rules": [{}]}))
    assert (changes.addresses, changes.authorizations) == (frozenset(), {"shop/p"})


def test_permissive_mesh_brings_only_the_static_policy(index):
    changes = index.apply(
        "PeerAuthentication", peer_authentication("m", "istio-system", "PERMISSIVE")
    )
    assert (changes.addresses, changes.authorizations) == (frozenset(), {STATIC})


def test_strict_namespace_touches_its_workloads(index):
    index.apply("Pod", pod("x", "other", "10.0.0.9"))
    changes = index.apply("PeerAuthentication", peer_authentication("n", "shop", "STRICT"))
    assert (changes.addresses, changes.authorizations) == ({WEB, API}, {STATIC})
    assert index.workloads[WEB].authorization_policies == (STATIC,)
    gone = index.remove("PeerAuthentication", "shop", "n")
    assert (gone.addresses, gone.authorizations) == ({WEB, API}, {STATIC})


def test_a_namespaces_mode_decides_what_its_exceptions_convert_to(index):
    own = peer_authentication("w", "shop", app="web", ports={80: "PERMISSIVE"})
    index.apply("PeerAuthentication", own)
    converted = "shop/converted_peer_authentication_w"
    assert converted not in index.authorizations
    changes = index.apply("PeerAuthentication", peer_authentication("n", "shop", "STRICT"))
    assert changes.authorizations == {converted}
    assert index.workloads[WEB].authorization_policies == (converted,)
    assert index.workloads[API].authorization_policies == (STATIC,)


def test_root_policy_with_a_selector_is_for_its_own_namespace(index):
    index.apply("PeerAuthentication", peer_authentication("r", "istio-system", "STRICT", app="web"))
    assert index.workloads[WEB].authorization_policies == ()


def test_waypoint_binds_when_it_has_an_address(index):
    index.apply("Service", web_service(use_waypoint="wp"))
    key = ObjectRef("Service", ObjectKey("shop", "web"))
    assert index.bindings.get(key).reason is Reason.NOT_READY
    assert index.apply("Gateway", gateway("wp", "shop")).addresses == frozenset()
    changes = index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    assert changes.addresses == {WEB_SERVICE}
    assert index.services[WEB_SERVICE].waypoint.destination.hostname == HOSTNAME[1]
    assert list(index.bindings.bound(ObjectKey("shop", "wp"))) == [key]
    assert index.remove("Gateway", "shop", "wp").addresses == {WEB_SERVICE}


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        (None, {WEB_SERVICE}),
        ("service", {WEB_SERVICE}),
        ("workload", {WEB, API}),
        ("all", {WEB, API, WEB_SERVICE}),
        ("none", set()),
    ],
)
def test_waypoint_of_a_namespace_by_traffic(index, kind, bound):
    labels = {"istio.io/waypoint-for": kind} if kind else {}
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME, labels=labels))
    labelled = namespace("shop")
    labelled["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
    assert index.apply("Namespace", labelled).addresses == bound


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        (None, Reason.DENIED),
        ({"from": "Same"}, Reason.DENIED),
        ({"from": "All"}, Reason.ACCEPTED),
        ({"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}, Reason.DENIED),
        (
            {
                "from": "Selector",
                "selector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]},
            },
            Reason.ACCEPTED,
        ),
    ],
)
def test_waypoint_of_another_namespace(index, allowed, reason):
    index.apply("Gateway", gateway("wp", "other", ("IPAddress", "10.96.0.5"), allowed=allowed))
    index.apply("Service", web_service(use_waypoint="wp", use_waypoint_namespace="other"))
    assert index.bindings.get(WEB_REF).reason is reason


def test_own_opt_out_beats_the_namespace(index):
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    labelled = namespace("shop")
    labelled["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
    index.apply("Namespace", labelled)
    assert index.apply("Service", web_service(use_waypoint="none")).addresses == {WEB_SERVICE}
    assert index.services[WEB_SERVICE].waypoint is None


def test_a_waypoint_never_goes_through_one(index):
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME, labels={"istio.io/waypoint-for": "all"}))
    labelled = namespace("shop")
    labelled["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
    index.apply("Namespace", labelled)
    labels = {
        "gateway.istio.io/managed": "istio.io-mesh-controller",
        "gateway.networking.k8s.io/gateway-name": "wp",
    }
    changes = index.apply("Pod", pod("wp-0", "shop", "10.0.0.7", labels=labels))
    assert changes.gateways == {ObjectKey("shop", "wp")}
    assert index.workloads["Kubernetes//Pod/shop/wp-0"].waypoint is None


def test_slice_addresses_that_are_no_pods(index):
    raw = slice_(
        "web-x",
        [
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": False}},
        ],
    )
    uid = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/web-x/192.0.2."
    assert index.apply("EndpointSlice", raw).addresses == {uid + "1", uid + "2"}
    assert index.workloads[uid + "1"].service_account == ""
    assert index.workloads[uid + "2"].status.name == "UNHEALTHY"
    raw["endpoints"].pop()
    assert index.apply("EndpointSlice", raw).addresses == {uid + "2"}
    assert index.remove("Service", "shop", "web").addresses == {WEB_SERVICE, WEB, uid + "1"}


def test_slice_of_a_service_without_selector_names_pods(index):
    bare = web_service()
    bare["spec"]["selector"] = None
    assert index.apply("Service", bare).addresses == {WEB}
    ref = {"kind": "Pod", "name": "api", "namespace": "shop", "uid": "uid-api"}
    raw = slice_("s", [{"addresses": ["10.0.0.2"], "targetRef": ref}])
    assert index.apply("EndpointSlice", raw).addresses == {API}
    ((_, ports),) = index.workloads[API].services.items()
    assert ports[0].target_port == 9000
    ref["uid"] = "an older pod of that name"
    assert index.apply("EndpointSlice", raw).addresses == {API}
    assert index.workloads[API].services == {}


def test_malformed_objects_are_named_and_stop_nothing(index):
    changes = index.apply("Pod", {"metadata": {"name": "bad", "namespace": "shop"}, "spec": 7})
    assert [(one.kind, str(one.key)) for one in changes.remarks] == [("Pod", "shop/bad")]
    assert "`spec`" in changes.remarks[0].text
    assert set(index.workloads) == {WEB, API}
    assert index.apply("Pod", pod("bad", "shop", "10.0.0.4")).remarks == ()
    assert index.remarks() == ()


def test_unreadable_security_policies_fail_closed(index):
    spec = {"selector": {"matchLabels": {"app": "web"}}, "rules": "all"}
    changes = index.apply("AuthorizationPolicy", policy("p", "shop", spec))
    assert changes.addresses == {WEB}
    assert index.authorizations["shop/p"].groups == ()
    assert "nothing is allowed" in changes.remarks[0].text
    bad = peer_authentication("n", "shop")
    bad["spec"] = {"mtls": "STRICT"}
    index.apply("PeerAuthentication", bad)
    assert index.workloads[API].authorization_policies == (STATIC,)


def config(kind, name, namespace, **spec):
    return {
        "apiVersion": "x/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def test_configs_for_a_waypoint(index):
    index.apply("Gateway", gateway("wp", "infra", HOSTNAME, allowed={"from": "All"}))
    index.apply("Gateway", gateway("wp", "other"))
    index.apply("Service", web_service(use_waypoint="wp", use_waypoint_namespace="infra"))
    parent = {"kind": "Service", "name": "web", "group": ""}
    wanted = [
        (
            "AuthorizationPolicy",
            policy("svc", "shop", {"targetRefs": [{"kind": "Service", "name": "web"}]}),
        ),
        (
            "AuthorizationPolicy",
            policy("gw", "infra", {"targetRef": {"kind": "Gateway", "name": "wp"}}),
        ),
        (
            "AuthorizationPolicy",
            policy(
                "all",
                "istio-system",
                {"targetRefs": [{"kind": "GatewayClass", "name": "istio-waypoint"}]},
            ),
        ),
        ("HTTPRoute", config("HTTPRoute", "r", "shop", parentRefs=[parent])),
        (
            "HTTPRoute",
            config("HTTPRoute", "consumer", "other", parentRefs=[{**parent, "namespace": "shop"}]),
        ),
        ("VirtualService", config("VirtualService", "short", "shop", hosts=["web"])),
        (
            "VirtualService",
            config("VirtualService", "full", "infra", hosts=["web.shop.svc.cluster.local"]),
        ),
        ("DestinationRule", config("DestinationRule", "d", "shop", host="web")),
        ("DestinationRule", config("DestinationRule", "own", "infra", host="anything")),
    ]
    others = [
        ("AuthorizationPolicy", policy("l4", "shop", {"rules": [{}]})),
        (
            "AuthorizationPolicy",
            policy("x", "shop", {"targetRefs": [{"kind": "Service", "name": "api"}]}),
        ),
        (
            "AuthorizationPolicy",
            policy("gw", "shop", {"targetRef": {"kind": "Gateway", "name": "wp"}}),
        ),
        ("HTTPRoute", config("HTTPRoute", "odd", "shop", parentRefs="web")),
        (
            "VirtualService",
            config("VirtualService", "far", "other", hosts=["web.shop.svc.cluster.local"]),
        ),
        ("VirtualService", config("VirtualService", "else", "shop", hosts=["api"])),
        (
            "DestinationRule",
            config("DestinationRule", "far", "other", host="web.shop.svc.cluster.local"),
        ),
    ]
    for kind, obj in wanted + others:
        index.stage(kind, obj)
    index.settle()
    names = {
        f"{kind}/{obj['metadata']['namespace']}/{obj['metadata']['name']}" for kind, obj in wanted
    }
    assert set(index.configs_for_waypoint("infra", "wp")) == names
    # Nothing uses this one: what its class and its own namespace say is all it gets.
    assert set(index.configs_for_waypoint("other", "wp")) == {
        "AuthorizationPolicy/istio-system/all",
        "DestinationRule/other/far",
    }


def test_a_delegate_goes_where_its_roots_go(index):
    index.apply("Gateway", gateway("wp", "shop", HOSTNAME))
    index.apply("Service", web_service(use_waypoint="wp"))
    rule = [{"delegate": {"name": "inner", "namespace": "other"}}]
    inner = config("VirtualService", "inner", "other", http=[{"route": []}])
    root = config("VirtualService", "root", "shop", hosts=["web"], http=rule)

    def known():
        return set(index.configs_for_waypoint("shop", "wp"))

    index.apply("VirtualService", inner)
    assert known() == set()
    index.apply("VirtualService", root)
    assert known() == {"VirtualService/shop/root", "VirtualService/other/inner"}
    index.apply("Service", web_service())  # the service does not use the waypoint any more
    assert known() == set()
    index.apply("Service", web_service(use_waypoint="wp"))
    assert "VirtualService/other/inner" in known()
    index.apply("VirtualService", config("VirtualService", "root", "shop", hosts=["web"], http=[]))
    assert known() == {"VirtualService/shop/root"}
