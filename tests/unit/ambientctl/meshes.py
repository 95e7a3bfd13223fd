"""A small shop on the embedded API server: namespaces, pods in the mesh, a waypoint, policies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE

NAMESPACES = """
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
"""
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 10.96.0.20, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: details, namespace: shop}
spec: {clusterIP: 10.96.0.21, selector: {app: details}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata:
  name: waypoint
  namespace: shop
  labels: {gateway.istio.io/managed: istio.io-mesh-controller}
spec:
  clusterIP: 10.96.0.30
  selector: {gateway.networking.k8s.io/gateway-name: waypoint}
  ports: [{name: mesh, port: 15008}]
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"""
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details, namespace: shop}
spec:
  selector: {matchLabels: {app: details}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/reviews]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: reviews}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {namespaces: [outside]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
IN_MESH = {"ambient.istio.io/redirection": "enabled"}


def build(ambientctl, *, policies: str = POLICIES) -> None:
    """Everything that a healthy mesh has."""
    ambientctl.apply(NAMESPACES, SERVICES, GATEWAY)
    if policies:
        ambientctl.apply(policies)
    for number in (1, 2):
        ambientctl.node(f"node-{number}")
        labels = {"app": "ztunnel"}
        name = f"istio-system/ztunnel-{number}"
        ambientctl.pod(name, f"10.244.{number}.2", node=f"node-{number}", labels=labels)
    ambientctl.pod("istio-system/istiod-1", "10.244.1.3", labels={"app": "istiod"})
    for app, ip in (("reviews", "10.244.1.10"), ("details", "10.244.2.10")):
        node = f"node-{ip.split('.')[2]}"
        ambientctl.pod(
            f"shop/{app}-1", ip, node=node, account=app, labels={"app": app}, annotations=IN_MESH
        )
    ambientctl.pod("outside/client-1", "10.244.1.20", labels={"app": "client"})
    labels = {"gateway.networking.k8s.io/gateway-name": "waypoint"}
    labels["istio.io/dataplane-mode"] = "none"
    ambientctl.pod("shop/waypoint-1", "10.244.2.30", node="node-2", labels=labels)
    address = {"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}
    conditions = [{"type": "Programmed", "status": "True", "reason": "Programmed"}]
    status = {"addresses": [address], "conditions": conditions}
    ambientctl.status("gateway.networking.k8s.io/v1", "Gateway", "shop/waypoint", status)


def syncz(*, error: str = "", version: str = "0.1.0") -> list[dict[str, object]]:
    """What istiod says of two proxies."""
    sent = (datetime.now(UTC) - timedelta(minutes=3)).isoformat()
    resources = {
        ADDRESS_TYPE: {"name": "WDS", "status": "SYNCED", "sentTime": sent, "lastError": ""},
        AUTHORIZATION_TYPE: {
            "name": "WADS",
            "status": "ERROR" if error else "SYNCED",
            "sentTime": sent,
            "lastError": error,
        },
    }
    return [
        {
            "proxy": f"ztunnel~10.244.1.2~{name}.istio-system~istio-system.svc.cluster.local",
            "proxy_type": "ztunnel",
            "istio_version": version,
            "cluster_id": "Kubernetes",
            "resources": resources
            if name.endswith("1")
            else {ADDRESS_TYPE: resources[ADDRESS_TYPE]},
        }
        for name in ("ztunnel-1", "ztunnel-2")
    ]


def istiod(ambientctl, **pages: object) -> None:
    """The control plane's HTTP port."""
    found = {"/debug/syncz": syncz(), "/version": "0.1.0\n", "/ready": "ready\n"}
    ambientctl.program("istio-system/istiod-1", 8080, {**found, **pages})


def dumped(value: object) -> str:
    return json.dumps(value)
