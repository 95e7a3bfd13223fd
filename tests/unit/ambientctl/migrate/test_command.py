"""Pain 35: from sidecars to ambient mode with a plan, a gate and a way back."""

from __future__ import annotations

import json

import pytest

from ambientctl.migrate.translation import SELECTOR_BEFORE, widened

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"""


@pytest.fixture
def shop(still):
    still.apply(SHOP)
    still.pod("shop/web-1", "10.244.1.5", annotations={"sidecar.istio.io/status": "{}"})
    return still


def namespace(shop):
    return shop.objects(("", "namespaces"))[("", "shop")]["metadata"]


def test_pain_35_the_plan_names_what_to_do_and_the_gate_stays_shut(shop):
    shop.apply(POLICY)
    done = shop("migrate", "plan")
    assert done.status == 1
    assert "namespace shop: 1 pods with sidecars" in done.out
    assert "AuthorizationPolicy shop/get: looks into HTTP and selects pods" in done.out
    assert "ambientctl waypoint apply -n shop --name waypoint --wait" in done.out
    refused = shop("migrate", "namespace", "shop", "-y", "--no-wait")
    assert refused.status == 1
    assert "nothing was changed" in refused.err
    assert namespace(shop)["labels"]["istio-injection"] == "enabled"


def test_pain_35_a_namespace_is_moved_in_order_and_back(shop):
    shop.apply(
        POLICY.replace("selector: {matchLabels: {app: web}}",
                       'targetRefs: [{group: "", kind: Service, name: web}]'), GATEWAY,
    )  # fmt: skip
    assert (
        shop("migrate", "namespace", "shop", "-y", "--no-wait").status == 1
    )  # the waypoint is not ready
    ready = {"conditions": [{"type": "Programmed", "status": "True"}]}
    shop.status("gateway.networking.k8s.io/v1", "Gateway", "shop/waypoint", ready)
    assert "may be moved" in shop.ok("migrate", "plan")
    assert shop("migrate", "namespace", "shop").status == 2  # nobody to answer
    out = shop.ok("migrate", "namespace", "shop", "-y", "--no-wait")
    order = ["waypoint", "ambient mode", "labels removed: istio-injection", "1 workloads restart"]
    assert sorted(order, key=out.index) == order
    labels = namespace(shop)["labels"]
    assert labels["istio.io/dataplane-mode"] == "ambient"
    assert labels["istio.io/use-waypoint"] == "waypoint"
    assert "istio-injection" not in labels
    deployment = shop.objects(("apps", "deployments"))[("shop", "web")]
    assert deployment["spec"]["template"]["metadata"]["annotations"]

    shop.ok(
        "migrate", "namespace", "shop", "-y", "--no-wait"
    )  # again: what was there at first is kept
    shop.ok("migrate", "rollback", "shop", "-y", "--no-wait")
    labels = namespace(shop)["labels"]
    assert labels["istio-injection"] == "enabled"
    assert "istio.io/dataplane-mode" not in labels
    again = shop("migrate", "rollback", "shop", "-y", "--no-wait")
    assert again.status == 1
    assert "was not moved" in again.err


def test_without_http_no_waypoint_is_asked_for(shop):
    assert "may be moved" in shop.ok("migrate", "plan", "-n", "shop")
    shop.ok("migrate", "namespace", "shop", "-y", "--no-wait")
    assert "istio.io/use-waypoint" not in namespace(shop)["labels"]
    kept = json.loads(namespace(shop)["annotations"]["ambient-mesh.io/before-migration"])
    assert kept["istio-injection"] == "enabled"


def test_node_tunnels_are_no_sidecars(still):
    still.apply("""
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-1, namespace: istio-system, labels: {app: ztunnel}}
spec: {containers: [{name: istio-proxy, image: i}]}
""")
    assert still.ok("migrate", "plan") == "No namespace has sidecars.\n"


# Policies that sidecars enforce.

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
"""


@pytest.fixture
def legacy(shop):
    """A policy that selects pods with sidecars, and a waypoint that is there."""
    shop.apply(POLICY, SERVICE, GATEWAY)
    labels = {"app": "web", "security.istio.io/tlsMode": "istio"}
    shop.pod("shop/web-1", "10.244.1.5", labels=labels,
             annotations={"sidecar.istio.io/status": "{}"})  # fmt: skip
    shop.pod("shop/waypoint-1", "10.244.1.6", labels={
        "gateway.networking.k8s.io/gateway-name": "waypoint"})  # fmt: skip
    ready = {"conditions": [{"type": "Programmed", "status": "True"}]}
    shop.status("gateway.networking.k8s.io/v1", "Gateway", "shop/waypoint", ready)
    return shop


def policies(shop):
    found = shop.objects(("security.istio.io", "authorizationpolicies"))
    return {name: obj["spec"] for (_, name), obj in found.items()}


def enforcing(shop, *names):
    """The waypoint's own word."""
    program = {"service": "shop/web.shop.svc.cluster.local", "allow": [f"shop/{n}" for n in names]}
    shop.program("shop/waypoint-1", 15000, {"/config_dump": {"services": [program]}})


OLD = {"matchLabels": {"app": "web"}}
NARROWED = {"matchLabels": {"app": "web", "security.istio.io/tlsMode": "istio"}}


def test_pain_35_no_moment_without_the_policy(legacy):
    assert "AuthorizationPolicy shop/get: the waypoint gets a copy for Service web" in legacy.ok(
        "migrate", "plan"
    )
    enforcing(legacy)  # it has not heard of the copy
    done = legacy("migrate", "namespace", "shop", "-y", "--no-wait", "--timeout", "0.01")
    assert done.status == 1
    assert "the waypoint does not enforce get-waypoint for Service web; sidecars do" in done.err
    assert policies(legacy)["get"]["selector"] == OLD
    assert "istio.io/dataplane-mode" not in namespace(legacy)["labels"]

    enforcing(legacy, "get-waypoint")
    out = legacy.ok("migrate", "namespace", "shop", "-y", "--no-wait")
    order = ["calls to its services", "waypoint waypoint enforces it for web", "in ambient mode",
             "labels removed", "1 workloads restart"]  # fmt: skip
    assert sorted(order, key=out.index) == order
    found = policies(legacy)
    assert found["get"]["selector"] == NARROWED
    copy = found["get-waypoint"]
    assert copy["targetRefs"] == [{"group": "", "kind": "Service", "name": "web"}]
    assert copy["rules"] == found["get"]["rules"]
    assert "selector" not in copy
    legacy.ok("migrate", "namespace", "shop", "-y", "--no-wait")  # again: nothing is copied twice
    assert set(policies(legacy)) == {"get", "get-waypoint"}


def test_pain_35_the_way_back_gives_selectors_back_when_all_is_restarted(legacy):
    enforcing(legacy, "get-waypoint")
    legacy.ok("migrate", "namespace", "shop", "-y", "--no-wait")
    late = legacy("migrate", "rollback", "shop", "-y", "--timeout", "0.01")
    assert late.status == 1
    assert "not restarted after 0.01 s: Deployment web: " in late.err
    assert policies(legacy)["get"]["selector"] == NARROWED
    done = {"observedGeneration": 99, "updatedReplicas": 1, "availableReplicas": 1}
    legacy.status("apps/v1", "Deployment", "shop/web", done)
    assert "AuthorizationPolicy shop/get selects what it selected" in legacy.ok(
        "migrate", "rollback", "shop", "-y"
    )
    assert policies(legacy)["get"]["selector"] == OLD
    assert "ambient-mesh.io/before-migration" not in namespace(legacy).get("annotations", {})


def test_pods_that_nobody_restarts_are_named(legacy):
    enforcing(legacy, "get-waypoint")
    done = {"observedGeneration": 99, "updatedReplicas": 1, "availableReplicas": 1}
    legacy.status("apps/v1", "Deployment", "shop/web", done)
    moved = legacy("migrate", "namespace", "shop", "-y")
    assert moved.status == 0
    assert "they are restarted" in moved.out
    assert "still with a sidecar: web-1" in moved.err


WIDE = SERVICE.replace("name: web,", "name: all,").replace("{app: web}", "{part: shop}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda shop: shop.apply(POLICY.replace("methods: [GET]", 'methods: [GET], ports: ["80"]')),
         "it names ports"),
        (lambda shop: shop.apply(POLICY.replace("{app: web}", "{app: job}")),
         "it selects pods that no Service leads to"),
        (lambda shop: (
            shop.pod("shop/web-1", "10.244.1.5", labels={
                "app": "web", "part": "shop", "security.istio.io/tlsMode": "istio"}),
            shop.pod("shop/cart-1", "10.244.1.8", labels={"app": "cart", "part": "shop"}),
            shop.apply(WIDE)),
         "Service all leads to other pods, too"),
        (lambda shop: shop.pod("shop/web-1", "10.244.1.5", labels={"app": "web"},
                               annotations={"sidecar.istio.io/status": "{}"}),
         "pod web-1 has a sidecar without the label"),
    ],
)  # fmt: skip
def test_what_cannot_be_copied_keeps_the_gate_shut(legacy, change, why):
    change(legacy)
    done = legacy("migrate", "plan")
    assert done.status == 1
    assert why in done.out
    assert "give a copy of it targetRefs" in done.out


def test_neighbours_with_sidecars_are_named(legacy):
    legacy.apply("apiVersion: v1\nkind: Namespace\n"
                 "metadata: {name: other, labels: {istio-injection: enabled}}")  # fmt: skip
    out = legacy.ok("migrate", "plan")
    assert "other still with sidecars: what they call goes past the waypoint" in out


@pytest.mark.parametrize(
    ("selector", "patch"),
    [
        (None, None),
        ({"matchLabels": {"app": "web"}},
         {"matchLabels": {"app": "web", "security.istio.io/tlsMode": None}}),
    ],
)  # fmt: skip
def test_a_narrowed_selector_and_back(selector, patch):
    obj = {"metadata": {"annotations": {SELECTOR_BEFORE: json.dumps(selector)}},
           "spec": {"selector": NARROWED}}  # fmt: skip
    assert widened(obj)["spec"]["selector"] == patch
    assert widened({"metadata": {}, "spec": {}}) is None
