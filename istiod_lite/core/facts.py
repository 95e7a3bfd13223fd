"""What is the same for the whole mesh; translators get it as an argument."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN
from istiod_lite.core.mesh_config import MeshConfig


class ObjectKey(NamedTuple):
    """Namespace and name of a Kubernetes object; the namespace is empty for cluster-wide kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ObjectRef(NamedTuple):
    """A Kubernetes object of any kind that we read; kinds are unique among those."""

    kind: str
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class MeshFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh's names and choices."""

    cluster_id: str = "Kubernetes"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    root_namespace: str = "istio-system"
    """Policies there hold for the whole mesh."""
    cluster_domain: str = "cluster.local"
    """The DNS domain of services, which need not be the trust domain."""
    network: str = ""
    """Of this cluster, unless the root namespace's label names another."""
    config: MeshConfig = MeshConfig()
    waypoint_fail_closed: bool = False
    """An object whose waypoint is missing or refuses it is unreachable instead of unprotected."""
    allow_waypoints: bool = True
    """Waypoints are admitted where L4 ALLOW policies would refuse them."""
    ingress_use_waypoint: bool = True
    """Ingress gateways go through a service's waypoint unless its label says no."""
    send_dry_run: bool = True
    """Tunnels are told dry-run policies; those that do not know the flag would enforce them."""
    service_entries_select_pods: bool = True
    services_select_workload_entries: bool = True
    allocate_addresses: bool = True
    """Hosts of ServiceEntries get virtual addresses."""

    def hostname(self, service: ObjectKey) -> str:
        """The DNS name of a Kubernetes Service."""
        return f"{service.name}.{service.namespace}.svc.{self.cluster_domain}"
