"""What is the same for the whole mesh; translators get it as an argument."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN


class ObjectKey(NamedTuple):
    """Namespace and name of a Kubernetes object; the namespace is empty for cluster-wide kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class MeshFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh's names."""

    cluster_id: str = "Kubernetes"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    root_namespace: str = "istio-system"
    """Policies there hold for the whole mesh."""
    cluster_domain: str = "cluster.local"
    """The DNS domain of services, which need not be the trust domain."""
    network: str = ""

    def hostname(self, service: ObjectKey) -> str:
        """The DNS name of a Kubernetes Service."""
        return f"{service.name}.{service.namespace}.svc.{self.cluster_domain}"
