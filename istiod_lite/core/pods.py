"""Pod to workload: who it is, where it runs, how peers reach it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ambient.api.address import parse_ip
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.api.workload import (
    ApplicationTunnel,
    Locality,
    NetworkMode,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
    WorkloadType,
)
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts

TUNNEL_LABEL: Final = "networking.istio.io/tunnel"
_CRON_JOB: Final = re.compile(r"(.+)-\d{8,10}")
"""The CronJob controller appends the scheduled minute (Unix time / 60) to the Job's name."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload takes from other objects."""

    node: objects.Node | None = None
    services: dict[NamespacedHostname, tuple[Port, ...]] = {}
    waypoint: GatewayAddress | None = None
    application_tunnel: ApplicationTunnel | None = None
    policies: tuple[str, ...] = ()


def uid(pod: objects.Pod, facts: MeshFacts) -> str:
    """The xDS resource name; the empty segment is the API group of pods."""
    return f"{facts.cluster_id}//Pod/{pod.metadata.namespace}/{pod.metadata.name}"


def is_in_mesh(pod: objects.Pod) -> bool:
    """Every running pod with an address is a workload, enrolled or not."""
    return bool(pod.ips) and not pod.finished


def translate(pod: objects.Pod, around: Surroundings, facts: MeshFacts) -> Workload:
    """The mesh's view of a pod for which ``is_in_mesh`` holds."""
    metadata = pod.metadata
    labels = metadata.labels or {}
    workload_name = metadata.label("service.istio.io/workload-name") or owner_name(metadata)
    native = "http" in (metadata.label(TUNNEL_LABEL) or "").split(",")
    enrolled = metadata.annotation(objects.REDIRECTION_ANNOTATION) == "enabled"
    return Workload(
        uid=uid(pod, facts),
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=tuple(ip for ip in map(parse_ip, pod.ips) if ip is not None),
        network=facts.network,
        tunnel_protocol=TunnelProtocol.HBONE if enrolled or native else TunnelProtocol.NONE,
        trust_domain=facts.trust_domain,
        service_account=pod.service_account,
        waypoint=around.waypoint,
        node=pod.spec.node_name,
        canonical_name=canonical_name(labels, workload_name),
        canonical_revision=canonical_revision(labels),
        workload_type=WorkloadType.POD,
        workload_name=workload_name,
        native_tunnel=native,
        authorization_policies=around.policies,
        status=WorkloadStatus.HEALTHY if pod.ready else WorkloadStatus.UNHEALTHY,
        cluster_id=facts.cluster_id,
        services=around.services,
        application_tunnel=around.application_tunnel,
        locality=locality(around.node),
        network_mode=NetworkMode.HOST_NETWORK if pod.spec.host_network else NetworkMode.STANDARD,
        labels=labels,
    )


def canonical_name(labels: Mapping[str, str], workload_name: str) -> str:
    """The service that a workload counts as in telemetry."""
    return (
        labels.get("service.istio.io/canonical-name")
        or labels.get("app.kubernetes.io/name")
        or labels.get("app")
        or workload_name
    )


def canonical_revision(labels: Mapping[str, str]) -> str:
    """The version that it counts as."""
    return (
        labels.get("service.istio.io/canonical-revision")
        or labels.get("app.kubernetes.io/version")
        or labels.get("version")
        or "latest"
    )


def locality(node: objects.Node | None) -> Locality:
    """Region, zone and subzone as the node's labels tell them."""
    if node is None:
        return Locality()
    label = node.metadata.label
    return Locality(
        label("topology.kubernetes.io/region") or "",
        label("topology.kubernetes.io/zone") or "",
        label("topology.istio.io/subzone") or "",
    )


def owner_name(metadata: objects.Metadata) -> str:
    """The name a person gave: of the Deployment or CronJob behind the controller, else its own."""
    owner = next((one for one in metadata.owner_references or () if one.controller), None)
    if owner is None or not metadata.generate_name:
        return metadata.name
    if owner.kind == "ReplicaSet":
        for label in ("pod-template-hash", "rollouts-pod-template-hash"):
            hashed = metadata.label(label)
            if hashed and owner.name.endswith("-" + hashed):
                return owner.name.removesuffix("-" + hashed)
    if owner.kind == "ReplicationController" and metadata.label("deploymentconfig"):
        return metadata.label("deploymentconfig") or owner.name
    if owner.kind == "Job" and (scheduled := _CRON_JOB.fullmatch(owner.name)):
        return scheduled[1]
    return owner.name


def target_ports(pod: objects.Pod, service: objects.Service) -> tuple[Port, ...]:
    """Where a Service reaches a pod that it selects. Readiness is in the workload's status."""
    ports = {}
    for port in service.spec.ports or ():
        target = port.target_port or port.port
        number = target if isinstance(target, int) else container_port(pod, target)
        # A name that the pod does not have: this workload does not serve this port.
        if number and (port.protocol == "TCP" or port.port not in ports):
            ports[port.port] = Port(port.port, number)
    return tuple(ports.values())


def container_port(pod: objects.Pod, name: str) -> int | None:
    """A container port by its name; init containers count if they keep running."""
    sidecars = (one for one in pod.spec.init_containers or () if one.restart_policy == "Always")
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports or ():
            if port.name == name and port.protocol == "TCP":
                return port.container_port
    return None
