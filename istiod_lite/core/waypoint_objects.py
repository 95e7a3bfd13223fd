"""Gateway of class istio-waypoint to the objects that run it, and to its status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ambient.api.ports import HBONE_PORT, READINESS_PORT, STATS_PORT
from ambient.kube.core import objects
from ambient.kube.core.resources import GATEWAY_GROUP, KubeObject
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.waypoints import MANAGED_BY_US, WAYPOINT_CLASS

CONTROLLER_NAME: Final = "istio.io/mesh-controller"
SERVICE_ACCOUNT_ANNOTATION: Final = "gateway.istio.io/service-account"
TOKEN_PATH: Final = "/var/run/secrets/tokens"
ROOT_PATH: Final = "/var/run/secrets/istio"
TOKEN_SECONDS: Final = 43200
"""Istio's token lifetime; the kubelet renews it at 80 % of that."""
GRACE_SECONDS: Final = 30
"""For open requests after SIGTERM."""
_UNPRIVILEGED: Final = 1337
"""Istio's proxy user."""


class WaypointPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What all waypoints have in common."""

    facts: MeshFacts
    image: str
    command: tuple[str, ...]
    discovery_address: str
    replicas: int


def gateway_class() -> KubeObject:
    """The class itself, so that users need not install it."""
    return {
        "metadata": {"name": WAYPOINT_CLASS},
        "spec": {
            "controllerName": CONTROLLER_NAME,
            "description": "Waypoint proxies of the ambient mesh",
        },
    }


def class_status(found: KubeObject, now: str) -> KubeObject | None:
    """The status that says that we run the class; None where it says so, or is not ours."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    accepted = any(one["type"] == "Accepted" and one["status"] == "True" for one in conditions)
    if accepted or found.get("spec", {}).get("controllerName") != CONTROLLER_NAME:
        return None
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "Waypoints of this class are run",
        "observedGeneration": found["metadata"].get("generation", 0),
        "lastTransitionTime": now,
    }
    return {"conditions": [condition]}


def service_account_name(gateway: objects.Gateway) -> str:
    """The identity that the waypoint runs as."""
    return gateway.metadata.annotation(SERVICE_ACCOUNT_ANNOTATION) or gateway.metadata.name


def service_account(gateway: objects.Gateway) -> KubeObject:
    """The waypoint's ServiceAccount."""
    return {"metadata": _metadata(gateway, service_account_name(gateway))}


def service(gateway: objects.Gateway) -> KubeObject:
    """The address under which node tunnels find the waypoint."""
    metadata = _metadata(gateway, gateway.metadata.name)
    metadata["annotations"] |= {"networking.istio.io/traffic-distribution": "PreferClose"}
    ports: list[dict[str, Any]] = [
        {"name": "status-port", "port": READINESS_PORT, "protocol": "TCP", "appProtocol": "tcp"}
    ]
    for listener in gateway.spec.listeners or ():
        protocol = "hbone" if listener.protocol == "HBONE" else listener.protocol.lower()
        if listener.port != READINESS_PORT:
            ports.append(
                {
                    "name": listener.name,
                    "port": listener.port,
                    "protocol": "TCP",
                    "appProtocol": protocol,
                }
            )
    return {
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": _selector(gateway),
            "ports": ports,
        },
    }


def deployment(gateway: objects.Gateway, plan: WaypointPlan) -> KubeObject:
    """The waypoint's pods."""
    name = gateway.metadata.name
    metadata = _metadata(gateway, name)
    pod_labels = metadata["labels"] | {
        "sidecar.istio.io/inject": "false",
        objects.AMBIENT_MODE_LABEL: "none",
        "service.istio.io/canonical-name": name,
        "service.istio.io/canonical-revision": "latest",
    }
    pod_annotations = metadata["annotations"] | {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(STATS_PORT),
        "prometheus.io/path": "/stats/prometheus",
    }
    return {
        "metadata": metadata,
        "spec": {
            "replicas": plan.replicas,
            "selector": {"matchLabels": _selector(gateway)},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": pod_annotations},
                "spec": {
                    "serviceAccountName": service_account_name(gateway),
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [_container(gateway, plan)],
                    "volumes": _volumes(),
                },
            },
        },
    }


def status(
    gateway: objects.Gateway,
    cluster_ip: str,
    ready: int,
    facts: MeshFacts,
    now: str,
) -> KubeObject:
    """The Gateway's status. Addresses are given once a pod is ready, and kept after that:
    clients would otherwise leave the waypoint out, and with it its policies.
    """
    hostname = facts.hostname(ObjectKey(gateway.metadata.namespace, gateway.metadata.name))
    assigned = bool(gateway.status.addresses)
    programmed = bool(cluster_ip) and (ready > 0 or assigned)
    addresses: list[dict[str, str]] = []
    if programmed:
        addresses = [
            {"type": "Hostname", "value": hostname},
            {"type": "IPAddress", "value": cluster_ip},
        ]
    elif assigned:
        addresses = [
            {"type": one.type or "IPAddress", "value": one.value}
            for one in gateway.status.addresses or ()
        ]
    problem = listener_problem(gateway)
    if programmed:
        outcome = ("True", "Programmed", f"Ready at {hostname}:{HBONE_PORT}")
    elif cluster_ip:
        outcome = ("False", "AddressNotAssigned", "No pod of the waypoint is ready yet")
    else:
        outcome = ("False", "AddressNotUsable", "The waypoint's Service has no address yet")
    accepted = (
        ("True", "ListenersNotValid", problem) if problem else ("True", "Accepted", "Accepted")
    )
    conditions = {"Accepted": accepted, "Programmed": outcome}
    return {
        "addresses": addresses,
        "conditions": _conditions(gateway, conditions, now),
        "listeners": [
            {
                "name": listener.name,
                "attachedRoutes": 0,
                "supportedKinds": [],
                "conditions": _listener_conditions(gateway, listener, problem, now),
            }
            for listener in gateway.spec.listeners or ()
        ],
    }


def listener_problem(gateway: objects.Gateway) -> str:
    """What is wrong with the listeners, empty if nothing."""
    listeners = gateway.spec.listeners or ()
    if len(listeners) == 1 and (listeners[0].port, listeners[0].protocol) == (HBONE_PORT, "HBONE"):
        return ""
    return f"a waypoint has exactly one listener: port {HBONE_PORT}, protocol HBONE"


def says_the_same(gateway: objects.Gateway, wanted: KubeObject) -> bool:
    """Whether the status of ``gateway`` is already the wanted one, times aside."""
    have = [(one.type or "IPAddress", one.value) for one in gateway.status.addresses or ()]
    want = [(one["type"], one["value"]) for one in wanted["addresses"]]
    said = {
        (one.type, one.status, one.reason, one.message) for one in gateway.status.conditions or ()
    }
    saying = {
        (one["type"], one["status"], one["reason"], one["message"]) for one in wanted["conditions"]
    }
    return have == want and saying <= said


def _metadata(gateway: objects.Gateway, name: str) -> dict[str, Any]:
    infrastructure = gateway.spec.infrastructure
    labels = (infrastructure and infrastructure.labels) or {}
    annotations = (infrastructure and infrastructure.annotations) or {}
    return {
        "name": name,
        "namespace": gateway.metadata.namespace,
        "labels": {
            **{k: v for k, v in labels.items() if not k.startswith(f"{GATEWAY_GROUP}/")},
            objects.GATEWAY_NAME_LABEL: gateway.metadata.name,
            objects.GATEWAY_CLASS_LABEL: WAYPOINT_CLASS,
            objects.MANAGED_LABEL: MANAGED_BY_US,
        },
        "annotations": dict(annotations),
        "ownerReferences": [
            {
                "apiVersion": f"{GATEWAY_GROUP}/v1",
                "kind": "Gateway",
                "name": gateway.metadata.name,
                "uid": gateway.metadata.uid,
                "controller": True,
            }
        ],
    }


def _selector(gateway: objects.Gateway) -> dict[str, str]:
    return {objects.GATEWAY_NAME_LABEL: gateway.metadata.name}


def _container(gateway: objects.Gateway, plan: WaypointPlan) -> dict[str, Any]:
    def field(path: str) -> dict[str, Any]:
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    env: Mapping[str, dict[str, Any]] = {
        "POD_NAME": field("metadata.name"),
        "POD_NAMESPACE": field("metadata.namespace"),
        "INSTANCE_IP": field("status.podIP"),
        "NODE_NAME": field("spec.nodeName"),
        "SERVICE_ACCOUNT": field("spec.serviceAccountName"),
        "GATEWAY_NAME": {"value": gateway.metadata.name},
        "XDS_ADDRESS": {"value": plan.discovery_address},
        "CA_ADDRESS": {"value": plan.discovery_address},
        "CLUSTER_ID": {"value": plan.facts.cluster_id},
        "TRUST_DOMAIN": {"value": plan.facts.trust_domain},
    }
    ready = {"httpGet": {"path": "/healthz/ready", "port": READINESS_PORT}}
    return {
        "name": "waypoint",
        "image": plan.image,
        "command": list(plan.command),
        "env": [{"name": name, **value} for name, value in env.items()],
        "ports": [
            {"name": "hbone", "containerPort": HBONE_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": STATS_PORT, "protocol": "TCP"},
            {"name": "status-port", "containerPort": READINESS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 4},
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 60},
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "2", "memory": "1Gi"},
        },
        "securityContext": {
            "runAsUser": _UNPRIVILEGED,
            "runAsGroup": _UNPRIVILEGED,
            "runAsNonRoot": True,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "istio-token", "mountPath": TOKEN_PATH, "readOnly": True},
            {"name": "istio-ca-root-cert", "mountPath": ROOT_PATH, "readOnly": True},
        ],
    }


def _volumes() -> list[dict[str, Any]]:
    token = {"audience": "istio-ca", "expirationSeconds": TOKEN_SECONDS, "path": "istio-token"}
    return [
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istio-ca-root-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ]


def _conditions(
    gateway: objects.Gateway, wanted: Mapping[str, tuple[str, str, str]], now: str
) -> list[dict[str, Any]]:
    return [
        {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": message,
            "observedGeneration": gateway.metadata.generation,
            "lastTransitionTime": now,
        }
        for kind, (value, reason, message) in wanted.items()
    ]


def _listener_conditions(
    gateway: objects.Gateway, listener: objects.Listener, problem: str, now: str
) -> list[dict[str, Any]]:
    right = (listener.port, listener.protocol) == (HBONE_PORT, "HBONE")
    accepted = (
        ("True", "Accepted", "Accepted") if right else ("False", "UnsupportedProtocol", problem)
    )
    wanted = {
        "Accepted": accepted,
        "Programmed": ("True", "Programmed", "Programmed") if right else accepted,
        "Conflicted": ("False", "NoConflicts", "No conflicts"),
        "ResolvedRefs": ("True", "ResolvedRefs", "Nothing is referred to"),
    }
    return _conditions(gateway, wanted, now)
