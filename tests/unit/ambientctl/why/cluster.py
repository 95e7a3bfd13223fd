"""A small cluster as Kubernetes objects, for scenarios of ``why``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Manifest = dict[str, Any]


def namespace(name: str, **labels: str) -> Manifest:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, ip: str, *, app: str = "", mesh: bool = True, version: str = "v1") -> Manifest:
    where, _, short = name.partition("/")
    app = app or short
    annotations = {"ambient.istio.io/redirection": "enabled"} if mesh else {}
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"{short}-1",
            "namespace": where,
            "uid": f"uid-{short}",
            "labels": {"app": app, "version": version},
            "annotations": annotations,
        },
        "spec": {"nodeName": "node-1", "serviceAccountName": f"{app}-sa"},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def service(name: str, ip: str, **labels: str) -> Manifest:
    where, _, short = name.partition("/")
    return {
        "kind": "Service",
        "metadata": {"name": short, "namespace": where, "labels": labels},
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "selector": {"app": short},
            "ports": [{"name": "http", "port": 9080, "targetPort": 9080, "protocol": "TCP"}],
        },
    }


def deny(name: str, *, principal: str) -> Manifest:
    where, _, short = name.partition("/")
    return {
        "kind": "AuthorizationPolicy",
        "metadata": {"name": short, "namespace": where},
        "spec": {
            "selector": {"matchLabels": {"app": "details"}},
            "action": "DENY",
            "rules": [{"from": [{"source": {"principals": [principal]}}]}],
        },
    }


def allow(name: str, *, principal: str) -> Manifest:
    policy = deny(name, principal=principal)
    policy["spec"]["action"] = "ALLOW"
    return policy


def strict(where: str) -> Manifest:
    return {
        "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": where},
        "spec": {"mtls": {"mode": "STRICT"}},
    }


def by_kind(objects: Iterable[Manifest]) -> dict[str, list[Manifest]]:
    found: dict[str, list[Manifest]] = {}
    for obj in objects:
        found.setdefault(obj["kind"], []).append(obj)
    return found


SHOP = [
    namespace("shop", **{"istio.io/dataplane-mode": "ambient"}),
    namespace("default"),
    pod("shop/client", "10.244.1.2"),
    pod("shop/details", "10.244.2.2"),
    pod("shop/reviews", "10.244.2.3"),
    pod("default/outside", "10.244.1.9", mesh=False),
    service("shop/details", "10.96.0.20"),
    service("shop/reviews", "10.96.0.21"),
]


def waypoint(where: str, ip: str) -> list[Manifest]:
    """A ready waypoint named ``waypoint``: Gateway, Service and pod."""
    labels = {"gateway.networking.k8s.io/gateway-name": "waypoint"}
    labels |= {"service.istio.io/canonical-name": "waypoint", "app": "waypoint"}
    instance = pod(f"{where}/waypoint", "10.244.2.50", mesh=False)
    instance["metadata"]["labels"] = labels
    front = service(f"{where}/waypoint", ip)
    front["spec"]["ports"] = [{"name": "mesh", "port": 15008, "targetPort": 15008}]
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    hostname = f"waypoint.{where}.svc.cluster.local"
    gateway = {
        "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": where},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
        "status": {"addresses": [{"type": "Hostname", "value": hostname}]},
    }
    return [gateway, front, instance]


def no_delete(where: str, target: str) -> Manifest:
    return {
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-delete", "namespace": where},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": target}],
            "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["DELETE"], "paths": ["/reviews/*"]}}]}],
        },
    }
