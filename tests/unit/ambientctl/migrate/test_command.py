"""Pain 35: from sidecars to ambient mode with a plan, a gate and a way back."""

from __future__ import annotations

import json

import pytest

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
    refused = shop("migrate", "namespace", "shop", "-y")
    assert refused.status == 1
    assert "nothing was changed" in refused.err
    assert namespace(shop)["labels"]["istio-injection"] == "enabled"


def test_pain_35_a_namespace_is_moved_in_order_and_back(shop):
    shop.apply(
        POLICY.replace("selector: {matchLabels: {app: web}}",
                       'targetRefs: [{group: "", kind: Service, name: web}]'), GATEWAY,
    )  # fmt: skip
    assert shop("migrate", "namespace", "shop", "-y").status == 1  # the waypoint is not ready
    ready = {"conditions": [{"type": "Programmed", "status": "True"}]}
    shop.status("gateway.networking.k8s.io/v1", "Gateway", "shop/waypoint", ready)
    assert "may be moved" in shop.ok("migrate", "plan")
    assert shop("migrate", "namespace", "shop").status == 2  # nobody to answer
    out = shop.ok("migrate", "namespace", "shop", "-y")
    order = ["waypoint", "ambient mode", "labels removed: istio-injection", "1 workloads restart"]
    assert sorted(order, key=out.index) == order
    labels = namespace(shop)["labels"]
    assert labels["istio.io/dataplane-mode"] == "ambient"
    assert labels["istio.io/use-waypoint"] == "waypoint"
    assert "istio-injection" not in labels
    deployment = shop.objects(("apps", "deployments"))[("shop", "web")]
    assert deployment["spec"]["template"]["metadata"]["annotations"]

    shop.ok("migrate", "namespace", "shop", "-y")  # again: what was there at first is kept
    shop.ok("migrate", "rollback", "shop", "-y")
    labels = namespace(shop)["labels"]
    assert labels["istio-injection"] == "enabled"
    assert "istio.io/dataplane-mode" not in labels
    again = shop("migrate", "rollback", "shop", "-y")
    assert again.status == 1
    assert "was not moved" in again.err


def test_without_http_no_waypoint_is_asked_for(shop):
    assert "may be moved" in shop.ok("migrate", "plan", "-n", "shop")
    shop.ok("migrate", "namespace", "shop", "-y")
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
