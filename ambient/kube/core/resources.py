"""The Kubernetes kinds that the mesh reads and writes, and their URLs."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import quote

KubeObject = dict[str, Any]
"""An object as decoded JSON."""


class Resource(NamedTuple):
    """One kind behind one URL; ``group`` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    older: tuple[str, ...] = ()
    """Versions in which a cluster with older definitions serves the same kind."""

    @property
    def api_version(self) -> str:
        """As objects spell it: ``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As kubectl spells it: ``pods`` or ``gateways.gateway.networking.k8s.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of a collection or an object; no namespace means all of them."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


PODS: Final = Resource("", "v1", "pods", "Pod")
NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICES: Final = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
EVENTS: Final = Resource("", "v1", "events", "Event")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet")
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet")
POD_DISRUPTION_BUDGETS: Final = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"
)
HORIZONTAL_POD_AUTOSCALERS: Final = Resource(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"
)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEWS: Final = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False
)
CUSTOM_RESOURCE_DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
)

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
GATEWAY_CLASSES: Final = Resource(
    GATEWAY_GROUP, "v1", "gatewayclasses", "GatewayClass", namespaced=False
)
GATEWAYS: Final = Resource(GATEWAY_GROUP, "v1", "gateways", "Gateway")
HTTP_ROUTES: Final = Resource(GATEWAY_GROUP, "v1", "httproutes", "HTTPRoute")
GRPC_ROUTES: Final = Resource(GATEWAY_GROUP, "v1", "grpcroutes", "GRPCRoute")
TCP_ROUTES: Final = Resource(GATEWAY_GROUP, "v1", "tcproutes", "TCPRoute", older=("v1alpha2",))
TLS_ROUTES: Final = Resource(
    GATEWAY_GROUP, "v1", "tlsroutes", "TLSRoute", older=("v1alpha3", "v1alpha2")
)
"""TCPRoute and TLSRoute: Gateway API 1.6 serves v1 only in its standard channel, and older ones
what their experimental channel had.
"""
ROUTES: Final = (HTTP_ROUTES, GRPC_ROUTES, TCP_ROUTES, TLS_ROUTES)
REFERENCE_GRANTS: Final = Resource(GATEWAY_GROUP, "v1beta1", "referencegrants", "ReferenceGrant")
BACKEND_TLS_POLICIES: Final = Resource(
    GATEWAY_GROUP, "v1", "backendtlspolicies", "BackendTLSPolicy"
)
GATEWAY_X_GROUP: Final = "gateway.networking.x-k8s.io"
"""What Gateway API tries out."""
BACKEND_TRAFFIC_POLICIES: Final = Resource(
    GATEWAY_X_GROUP, "v1alpha1", "xbackendtrafficpolicies", "XBackendTrafficPolicy"
)
BACKEND_POLICIES: Final = (BACKEND_TLS_POLICIES, BACKEND_TRAFFIC_POLICIES)

SECURITY_GROUP: Final = "security.istio.io"
AUTHORIZATION_POLICIES: Final = Resource(
    SECURITY_GROUP, "v1", "authorizationpolicies", "AuthorizationPolicy"
)
PEER_AUTHENTICATIONS: Final = Resource(
    SECURITY_GROUP, "v1", "peerauthentications", "PeerAuthentication"
)
REQUEST_AUTHENTICATIONS: Final = Resource(
    SECURITY_GROUP, "v1", "requestauthentications", "RequestAuthentication"
)
TELEMETRY_GROUP: Final = "telemetry.istio.io"
TELEMETRIES: Final = Resource(TELEMETRY_GROUP, "v1", "telemetries", "Telemetry")
NETWORKING_GROUP: Final = "networking.istio.io"
ENVOY_FILTERS: Final = Resource(NETWORKING_GROUP, "v1alpha3", "envoyfilters", "EnvoyFilter")
VIRTUAL_SERVICES: Final = Resource(NETWORKING_GROUP, "v1", "virtualservices", "VirtualService")
DESTINATION_RULES: Final = Resource(NETWORKING_GROUP, "v1", "destinationrules", "DestinationRule")
SERVICE_ENTRIES: Final = Resource(NETWORKING_GROUP, "v1", "serviceentries", "ServiceEntry")
WORKLOAD_ENTRIES: Final = Resource(NETWORKING_GROUP, "v1", "workloadentries", "WorkloadEntry")
WORKLOAD_GROUPS: Final = Resource(NETWORKING_GROUP, "v1", "workloadgroups", "WorkloadGroup")
