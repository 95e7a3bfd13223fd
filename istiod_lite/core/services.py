"""Kubernetes Service to mesh service."""

from __future__ import annotations

from typing import Final

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.service import (
    AppProtocol,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    NamespacedHostname,
    Port,
    Scope,
    Service,
)
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.waypoints import Binding

TRAFFIC_DISTRIBUTION_ANNOTATION: Final = "networking.istio.io/traffic-distribution"
INGRESS_USE_WAYPOINT_LABEL: Final = "istio.io/ingress-use-waypoint"

_APP_PROTOCOLS: Final = {
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "kubernetes.io/ws": AppProtocol.HTTP11,
    "kubernetes.io/wss": AppProtocol.TLS,
}
_NAME_PREFIXES: Final = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "https": AppProtocol.TLS,
    "tls": AppProtocol.TLS,
    "tcp": AppProtocol.TCP,
    "grpc-web": AppProtocol.UNKNOWN,
    "mongo": AppProtocol.UNKNOWN,
    "redis": AppProtocol.UNKNOWN,
    "mysql": AppProtocol.UNKNOWN,
}
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
SERVER_FIRST_PORTS: Final = frozenset({25, 53, 3306, 27017})
"""Ports on which sniffing for HTTP would wait for ever (Istio's list)."""

_SAME_ZONE: Final = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
_DISTRIBUTIONS: Final = {
    "PreferClose": LoadBalancing(_SAME_ZONE, Mode.FAILOVER),
    "PreferSameZone": LoadBalancing(_SAME_ZONE, Mode.FAILOVER),
    "PreferSameNode": LoadBalancing((*_SAME_ZONE, Scope.SUBZONE, Scope.NODE), Mode.FAILOVER),
}


def is_in_mesh(service: objects.Service) -> bool:
    """ExternalName services are only DNS; all others are services of the mesh."""
    return service.spec.type != "ExternalName"


def service_key(service: objects.Service, facts: MeshFacts) -> NamespacedHostname:
    """Its name in the mesh."""
    metadata = service.metadata
    key = ObjectKey(metadata.namespace, metadata.name)
    return NamespacedHostname(metadata.namespace, facts.hostname(key))


def translate(
    service: objects.Service,
    namespace: objects.Metadata | None,
    binding: Binding,
    facts: MeshFacts,
    *,
    canonical: bool = True,
) -> Service:
    """The mesh's view of a Service for which ``is_in_mesh`` holds."""
    ips = [ip for ip in map(parse_ip, service.virtual_ips) if ip is not None]
    return Service(
        name=service.metadata.name,
        namespace=service.metadata.namespace,
        hostname=service_key(service, facts).hostname,
        addresses=tuple(NetworkAddress(facts.network, ip) for ip in ips),
        ports=_ports(service),
        waypoint=binding.address,
        weighted_waypoints=binding.weighted,
        load_balancing=_load_balancing(service, namespace),
        ip_families=_families(service),
        canonical=canonical,
        ingress_use_waypoint=ingress_use_waypoint(service.metadata, namespace, binding, facts),
    )


def app_protocol(port: objects.ServicePort) -> AppProtocol:
    """What the port speaks: declared by appProtocol, by its name, or known by its number."""
    if port.protocol not in ("TCP", ""):
        return AppProtocol.UNKNOWN
    if port.app_protocol is not None and port.app_protocol in _APP_PROTOCOLS:
        return _APP_PROTOCOLS[port.app_protocol]
    declared = (port.app_protocol or port.name).lower()
    for prefix in ("grpc-web", declared.partition("-")[0]):
        if declared == prefix or declared.startswith(prefix + "-"):
            known = _NAME_PREFIXES.get(prefix)
            if known is not None:
                return known
    return AppProtocol.TCP if port.port in SERVER_FIRST_PORTS else AppProtocol.UNKNOWN


def _ports(service: objects.Service) -> tuple[Port, ...]:
    """In the order of the Service; a number that TCP and UDP share is TCP's."""
    ports: dict[int, Port] = {}
    for port in sorted(service.spec.ports or (), key=lambda port: port.protocol != "TCP"):
        target = port.target_port
        number = target if isinstance(target, int) else 0 if target else port.port
        ports.setdefault(port.port, Port(port.port, number, app_protocol(port)))
    order = dict.fromkeys(port.port for port in service.spec.ports or ())
    return tuple(ports[number] for number in order)


def _load_balancing(service: objects.Service, namespace: objects.Metadata | None) -> LoadBalancing:
    spec = service.spec
    health = (
        HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    )
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((Scope.NODE,), Mode.STRICT, health)
    chosen = distribution(spec.traffic_distribution, service.metadata, namespace)
    return LoadBalancing(chosen.routing_preference, chosen.mode, health)


def distribution(
    declared: str | None, metadata: objects.Metadata, namespace: objects.Metadata | None
) -> LoadBalancing:
    """The preference that a field declares, else the object's annotation, else its namespace's."""
    wanted = declared or metadata.annotation(TRAFFIC_DISTRIBUTION_ANNOTATION)
    if not wanted and namespace is not None:
        wanted = namespace.annotation(TRAFFIC_DISTRIBUTION_ANNOTATION)
    # An unknown value means no preference, as in Kubernetes.
    return _DISTRIBUTIONS.get(wanted or "", LoadBalancing())


def _families(service: objects.Service) -> IPFamilies:
    match service.spec.ip_families:
        case ("IPv4",):
            return IPFamilies.IPV4_ONLY
        case ("IPv6",):
            return IPFamilies.IPV6_ONLY
        case (_, _):
            return IPFamilies.DUAL
        case _:
            return IPFamilies.AUTOMATIC


def ingress_use_waypoint(
    metadata: objects.Metadata,
    namespace: objects.Metadata | None,
    binding: Binding,
    facts: MeshFacts,
) -> bool:
    """Whether ingress gateways go through the waypoint, where there is one: as the object's label
    says, else its namespace's, else as the mesh does.
    """
    if binding.address is None:
        return False
    value = metadata.label(INGRESS_USE_WAYPOINT_LABEL)
    if value is None and namespace is not None:
        value = namespace.label(INGRESS_USE_WAYPOINT_LABEL)
    # A value that is no boolean keeps the mesh's choice.
    return _BOOLEANS.get(value or "", facts.ingress_use_waypoint)
