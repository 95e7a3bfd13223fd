"""Gateway of class istio-waypoint to the objects that run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ambient.api.ports import HBONE_PORT, READINESS_PORT, STATS_PORT
from ambient.kube.core import objects
from ambient.kube.core.resources import (
    DEPLOYMENTS,
    GATEWAY_GROUP,
    HORIZONTAL_POD_AUTOSCALERS,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    KubeObject,
    Resource,
)
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.overlay import merge
from istiod_lite.core.waypoint_parameters import Parameters
from istiod_lite.core.waypoints import MANAGED_BY_US, WAYPOINT_CLASS, service_account_name

NAME_ANNOTATION: Final = "gateway.istio.io/name-override"
VERSION_ANNOTATION: Final = "gateway.istio.io/controller-version"
XFCC_ANNOTATION: Final = "ambient.istio.io/xfcc-include-client-identity"
SERVICE_TYPE_ANNOTATION: Final = "networking.istio.io/service-type"
CONTROLLER_VERSION: Final = 5
"""Istio's number for the objects that it makes; with a higher one we leave a Gateway alone."""
CONTAINER: Final = "istio-proxy"
"""Istio's name, which overlays and `kubectl logs -c` say."""
TOKEN_PATH: Final = "/var/run/secrets/tokens"
ROOT_PATH: Final = "/var/run/secrets/istio"
TOKEN_SECONDS: Final = 43200
"""Istio's token lifetime; the kubelet renews it at 80 % of that."""
_UNPRIVILEGED: Final = 1337
"""Istio's proxy user."""


class WaypointPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What all waypoints have in common."""

    facts: MeshFacts
    image: str
    command: tuple[str, ...]
    discovery_address: str
    revision: str = "default"
    parameters: Parameters = Parameters()
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in each waypoint's namespace."""


def name_of(gateway: objects.Gateway) -> str:
    """Of the waypoint's Service and Deployment."""
    return gateway.metadata.annotation(NAME_ANNOTATION) or gateway.metadata.name


def service_key(gateway: objects.Gateway) -> ObjectKey:
    """The waypoint's Service."""
    return ObjectKey(gateway.metadata.namespace, name_of(gateway))


def is_newer(gateway: objects.Gateway) -> bool:
    """Whether a newer control plane looks after the Gateway."""
    text = gateway.metadata.annotation(VERSION_ANNOTATION) or "0"
    return text.isdecimal() and int(text) > CONTROLLER_VERSION


def objects_of(gateway: objects.Gateway, plan: WaypointPlan) -> list[tuple[Resource, KubeObject]]:
    """Everything that runs the waypoint, in the order in which it is applied."""
    parameters = plan.parameters
    made: list[tuple[Resource, str, KubeObject]] = [
        (SERVICE_ACCOUNTS, "serviceAccount", service_account(gateway)),
        (SERVICES, "service", service(gateway)),
        (DEPLOYMENTS, "deployment", deployment(gateway, plan)),
    ]
    budget = parameters.max_unavailable and (parameters.replicas > 1 or parameters.autoscaled)
    if budget or "podDisruptionBudget" in parameters.overlays:
        made.append((POD_DISRUPTION_BUDGETS, "podDisruptionBudget", _budget(gateway, parameters)))
    if parameters.autoscaled:
        made.append(
            (
                HORIZONTAL_POD_AUTOSCALERS,
                "horizontalPodAutoscaler",
                _autoscaler(gateway, parameters),
            )
        )
    return [(kind, _overlaid(one, parameters.overlays.get(key))) for kind, key, one in made]


OPTIONAL: Final = (POD_DISRUPTION_BUDGETS, HORIZONTAL_POD_AUTOSCALERS)
"""Kinds that a waypoint may have had and does not need any more."""


def _overlaid(made: KubeObject, patch: KubeObject | None) -> KubeObject:
    """With the user's changes, except to what ties the object to its Gateway."""
    if not patch:
        return made
    merged: KubeObject = merge(made, patch)
    metadata = merged["metadata"]
    for name in ("name", "namespace", "ownerReferences"):
        metadata[name] = made["metadata"][name]
    metadata["labels"] = {**(metadata.get("labels") or {}), **_ours(made["metadata"]["labels"])}
    if "selector" in made.get("spec", {}):
        merged["spec"]["selector"] = made["spec"]["selector"]
    return merged


def _ours(labels: Mapping[str, str]) -> dict[str, str]:
    names = (objects.GATEWAY_NAME_LABEL, objects.GATEWAY_CLASS_LABEL, objects.MANAGED_LABEL)
    return {name: labels[name] for name in names}


def service_account(gateway: objects.Gateway) -> KubeObject:
    """The waypoint's ServiceAccount."""
    return {"metadata": _metadata(gateway, service_account_name(gateway))}


def service(gateway: objects.Gateway) -> KubeObject:
    """The address under which node tunnels find the waypoint."""
    metadata = _metadata(gateway, name_of(gateway))
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
            "type": gateway.metadata.annotation(SERVICE_TYPE_ANNOTATION) or "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": _selector(gateway),
            "ports": ports,
        },
    }


def deployment(gateway: objects.Gateway, plan: WaypointPlan) -> KubeObject:
    """The waypoint's pods."""
    name, parameters = name_of(gateway), plan.parameters
    metadata = _metadata(gateway, name)
    pod_labels = metadata["labels"] | {
        "sidecar.istio.io/inject": "false",
        objects.AMBIENT_MODE_LABEL: "none",
        "service.istio.io/canonical-name": name,
        "service.istio.io/canonical-revision": "latest",
    }
    pod_annotations = metadata["annotations"] | {
        "istio.io/rev": plan.revision,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(STATS_PORT),
        "prometheus.io/path": "/stats/prometheus",
    }
    return {
        "metadata": metadata,
        "spec": {
            "replicas": parameters.replicas,
            "selector": {"matchLabels": _selector(gateway)},
            # The new pod serves before the old one goes.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": {
                "metadata": {"labels": pod_labels, "annotations": pod_annotations},
                "spec": {
                    "serviceAccountName": service_account_name(gateway),
                    "terminationGracePeriodSeconds": parameters.grace_seconds,
                    "topologySpreadConstraints": _spread(gateway, parameters),
                    "containers": [_container(gateway, plan)],
                    "volumes": _volumes(),
                    "imagePullSecrets": [{"name": name} for name in plan.pull_secrets],
                },
            },
        },
    }


def _budget(gateway: objects.Gateway, parameters: Parameters) -> KubeObject:
    """Evictions leave enough pods to serve."""
    return {
        "metadata": _metadata(gateway, name_of(gateway)),
        "spec": {
            "maxUnavailable": parameters.max_unavailable,
            "selector": {"matchLabels": _selector(gateway)},
        },
    }


def _autoscaler(gateway: objects.Gateway, parameters: Parameters) -> KubeObject:
    target = {"type": "Utilization", "averageUtilization": parameters.cpu_percent}
    return {
        "metadata": _metadata(gateway, name_of(gateway)),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": DEPLOYMENTS.api_version,
                "kind": DEPLOYMENTS.kind,
                "name": name_of(gateway),
            },
            "minReplicas": max(parameters.replicas, 1),
            "maxReplicas": max(parameters.max_replicas, parameters.replicas, 1),
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _spread(gateway: objects.Gateway, parameters: Parameters) -> list[dict[str, Any]]:
    """Pods of a waypoint avoid each other's nodes and zones."""
    if parameters.spread == "none":
        return []
    required = parameters.spread == "required"
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule" if required else "ScheduleAnyway",
            "labelSelector": {"matchLabels": _selector(gateway)},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def _metadata(gateway: objects.Gateway, name: str) -> dict[str, Any]:
    infrastructure = gateway.spec.infrastructure
    labels = (infrastructure and infrastructure.labels) or {}
    annotations = (infrastructure and infrastructure.annotations) or {}
    return {
        "name": name,
        "namespace": gateway.metadata.namespace,
        "labels": {
            **_copied(labels),
            objects.GATEWAY_NAME_LABEL: gateway.metadata.name,
            objects.GATEWAY_CLASS_LABEL: WAYPOINT_CLASS,
            objects.MANAGED_LABEL: MANAGED_BY_US,
        },
        "annotations": _copied(annotations),
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


def _copied(pairs: Mapping[str, str]) -> dict[str, str]:
    """Without Gateway API's own. Only what infrastructure says is copied: the Gateway's own labels
    and annotations change without anybody meaning to restart its pods.
    """
    return {key: value for key, value in pairs.items() if not key.startswith(f"{GATEWAY_GROUP}/")}


def _selector(gateway: objects.Gateway) -> dict[str, str]:
    return {objects.GATEWAY_NAME_LABEL: gateway.metadata.name}


def _container(gateway: objects.Gateway, plan: WaypointPlan) -> dict[str, Any]:
    def field(path: str) -> dict[str, Any]:
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    env: dict[str, dict[str, Any]] = {
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
    if (gateway.metadata.annotation(XFCC_ANNOTATION) or "").lower() == "true":
        env |= {"XFCC_INCLUDE_CLIENT_IDENTITY": {"value": "true"}}
    ready = {"httpGet": {"path": "/healthz/ready", "port": READINESS_PORT}}
    return {
        "name": CONTAINER,
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
            "seccompProfile": {"type": "RuntimeDefault"},
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
