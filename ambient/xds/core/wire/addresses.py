"""Workloads and services (istio.workload), both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.any_pb2 import Any as PbAny

from ambient.api import service, workload
from ambient.api.address import NetworkAddress
from ambient.api.pb import config_pb2 as cpb
from ambient.api.pb import workload_pb2 as wpb
from ambient.api.ports import HBONE_PORT
from ambient.api.service import GatewayAddress, NamespacedHostname, Port, Service
from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN
from ambient.api.workload import TunnelProtocol, Workload
from ambient.xds.core.wire.parts import (
    MAX_ITEMS,
    BadResource,
    address,
    cidr,
    each,
    enum_or,
    known,
    parse,
    port,
    text,
)

LABELS_EXTENSION: Final = "ambient.labels"
LABELS_TYPE: Final = "type.googleapis.com/ambient.config.v1.Labels"
DEFAULT_CLUSTER: Final = "Kubernetes"
"""ztunnel's default for an empty cluster id."""
DEFAULT_SERVICE_ACCOUNT: Final = "default"


def _hostname(field: str, namespace: str, hostname: str) -> NamespacedHostname:
    try:
        return NamespacedHostname.parse(text(field, f"{namespace}/{hostname}"))
    except ValueError as err:
        raise BadResource(field, f"{namespace}/{hostname}", str(err)) from None


def _gateway(field: str, message: wpb.GatewayAddress) -> GatewayAddress:
    mtls_port = port(f"{field}.hbone_mtls_port", message.hbone_mtls_port or HBONE_PORT)
    match message.WhichOneof("destination"):
        case "hostname":
            host = message.hostname
            return GatewayAddress(_hostname(field, host.namespace, host.hostname), mtls_port)
        case "address":
            ip = address(f"{field}.address", message.address.address)
            return GatewayAddress(NetworkAddress(message.address.network, ip), mtls_port)
        case _:
            raise BadResource(field, None, "has neither a hostname nor an address")


def _service_port(field: str, message: wpb.Port) -> Port:
    return Port(
        service_port=port(f"{field}.service_port", message.service_port),
        target_port=port(f"{field}.target_port", message.target_port, lowest=0),
        app_protocol=enum_or(
            service.AppProtocol, message.app_protocol, service.AppProtocol.UNKNOWN
        ),
    )


def _tunnel_protocol(value: int) -> TunnelProtocol:
    protocol = known(TunnelProtocol, "tunnel_protocol", value)
    if protocol is TunnelProtocol.LEGACY_ISTIO_MTLS:
        # Sent as plain TCP it would fail at a sidecar in STRICT mode or, worse, work unencrypted.
        raise BadResource("tunnel_protocol", value, "sidecar mutual TLS is not spoken here")
    return protocol


def _membership(services: Any) -> dict[NamespacedHostname, tuple[Port, ...]]:
    if len(services) > MAX_ITEMS:
        raise BadResource("services", f"{len(services)} items", f"more than {MAX_ITEMS}")
    out: dict[NamespacedHostname, tuple[Port, ...]] = {}
    for key in sorted(services):
        namespace, _, hostname = key.partition("/")
        name = _hostname("services", namespace, hostname)
        out[name] = each(f"services[{key}].ports", services[key].ports, _service_port)
    return out


def _labels(extensions: Iterable[wpb.Extension]) -> dict[str, str]:
    for extension in extensions:
        if extension.name == LABELS_EXTENSION:
            if extension.config.type_url != LABELS_TYPE:
                url = extension.config.type_url
                raise BadResource(LABELS_EXTENSION, url, f"not {LABELS_TYPE}")
            return dict(sorted(parse(cpb.Labels, extension.config.value).labels.items()))
    return {}


def _application_tunnel(message: wpb.Workload) -> workload.ApplicationTunnel | None:
    if not message.HasField("application_tunnel"):
        return None
    tunnel = message.application_tunnel
    return workload.ApplicationTunnel(
        protocol=known(
            workload.ApplicationTunnelProtocol, "application_tunnel.protocol", tunnel.protocol
        ),
        port=port("application_tunnel.port", tunnel.port, lowest=0),
    )


def read_workload(message: wpb.Workload) -> Workload:
    """Raises BadResource."""
    known_type = enum_or(workload.WorkloadType, message.workload_type, workload.WorkloadType.POD)
    place = message.locality
    return Workload(
        uid=text("uid", message.uid),
        name=text("name", message.name, required=False),
        namespace=text("namespace", message.namespace, required=False),
        addresses=each("addresses", message.addresses, address),
        network=text("network", message.network, required=False),
        hostname=text("hostname", message.hostname, required=False),
        tunnel_protocol=_tunnel_protocol(message.tunnel_protocol),
        trust_domain=text("trust_domain", message.trust_domain or DEFAULT_TRUST_DOMAIN),
        service_account=text("service_account", message.service_account or DEFAULT_SERVICE_ACCOUNT),
        waypoint=_gateway("waypoint", message.waypoint) if message.HasField("waypoint") else None,
        network_gateway=(
            _gateway("network_gateway", message.network_gateway)
            if message.HasField("network_gateway")
            else None
        ),
        node=text("node", message.node, required=False),
        canonical_name=text("canonical_name", message.canonical_name, required=False),
        canonical_revision=text("canonical_revision", message.canonical_revision, required=False),
        workload_type=known_type,
        workload_name=text("workload_name", message.workload_name, required=False),
        native_tunnel=message.native_tunnel,
        authorization_policies=each("authorization_policies", message.authorization_policies, text),
        status=known(workload.WorkloadStatus, "status", message.status),
        cluster_id=text("cluster_id", message.cluster_id or DEFAULT_CLUSTER),
        services=_membership(message.services),
        application_tunnel=_application_tunnel(message),
        locality=workload.Locality(place.region, place.zone, place.subzone),
        network_mode=known(workload.NetworkMode, "network_mode", message.network_mode),
        capacity=message.capacity.value if message.HasField("capacity") else 1,
        labels=_labels(message.extensions),
    )


def read_service(message: wpb.Service) -> Service:
    """Raises BadResource."""
    hosts: list[NetworkAddress] = []
    ranges: list[service.AddressRange] = []
    if len(message.addresses) > MAX_ITEMS:
        raise BadResource("addresses", f"{len(message.addresses)} items", f"above {MAX_ITEMS}")
    for index, item in enumerate(message.addresses):
        field = f"addresses[{index}]"
        if not item.HasField("length"):
            hosts.append(NetworkAddress(item.network, address(field, item.address)))
            continue
        network = cidr(field, item.address, item.length)
        if network.num_addresses == 1:
            hosts.append(NetworkAddress(item.network, network.network_address))
        else:
            ranges.append(service.AddressRange(item.network, network))
    key = _hostname("hostname", message.namespace, message.hostname)
    return Service(
        name=text("name", message.name, required=False),
        namespace=key.namespace,
        hostname=key.hostname,
        addresses=tuple(hosts),
        ranges=tuple(ranges),
        ports=each("ports", message.ports, _service_port),
        subject_alt_names=each("subject_alt_names", message.subject_alt_names, text),
        waypoint=_gateway("waypoint", message.waypoint) if message.HasField("waypoint") else None,
        load_balancing=_load_balancing(message.load_balancing),
        ip_families=enum_or(service.IPFamilies, message.ip_families, service.IPFamilies.AUTOMATIC),
        canonical=message.canonical,
        ingress_use_waypoint=message.ingress_use_waypoint,
        weighted_waypoints=each("weighted_waypoints", message.weighted_waypoints, _weighted),
        visibility=enum_or(service.Visibility, message.visibility, service.Visibility.PUBLIC),
    )


def _weighted(field: str, message: wpb.WeightedWaypoint) -> service.WeightedWaypoint:
    return service.WeightedWaypoint(_gateway(field, message.destination), message.weight)


def _load_balancing(message: wpb.LoadBalancing) -> service.LoadBalancing:
    def scope(field: str, value: int) -> service.Scope:
        return known(service.Scope, field, value)

    return service.LoadBalancing(
        routing_preference=each("routing_preference", message.routing_preference, scope),
        mode=known(service.Mode, "load_balancing.mode", message.mode),
        health_policy=known(
            service.HealthPolicy, "load_balancing.health_policy", message.health_policy
        ),
    )


def put_workload(value: Workload, *, labels: bool) -> wpb.Workload:
    """Fields at their default stay absent, as upstream leaves them."""
    message = wpb.Workload(
        uid=value.uid,
        name=value.name,
        namespace=value.namespace,
        addresses=[ip.packed for ip in value.addresses],
        network=value.network,
        hostname=value.hostname,
        trust_domain="" if value.trust_domain == DEFAULT_TRUST_DOMAIN else value.trust_domain,
        service_account=value.service_account,
        node=value.node,
        canonical_name=value.canonical_name,
        canonical_revision=value.canonical_revision,
        workload_name=value.workload_name,
        native_tunnel=value.native_tunnel,
        authorization_policies=value.authorization_policies,
        cluster_id=value.cluster_id,
    )
    message.tunnel_protocol = int(value.tunnel_protocol)  # type: ignore[assignment]
    message.workload_type = int(value.workload_type)  # type: ignore[assignment]
    message.status = int(value.status)  # type: ignore[assignment]
    message.network_mode = int(value.network_mode)  # type: ignore[assignment]
    for name, ports in value.services.items():
        message.services[str(name)].ports.extend(map(_put_port, ports))
    if value.waypoint:
        message.waypoint.CopyFrom(_put_gateway(value.waypoint))
    if value.network_gateway:
        message.network_gateway.CopyFrom(_put_gateway(value.network_gateway))
    if value.application_tunnel:
        message.application_tunnel.port = value.application_tunnel.port
        protocol = int(value.application_tunnel.protocol)
        message.application_tunnel.protocol = protocol  # type: ignore[assignment]
    if value.locality != workload.Locality():
        place = value.locality
        message.locality.region, message.locality.zone = place.region, place.zone
        message.locality.subzone = place.subzone
    if value.capacity != 1:
        message.capacity.value = value.capacity
    if labels and value.labels:
        packed = cpb.Labels(labels=value.labels).SerializeToString(deterministic=True)
        config = PbAny(type_url=LABELS_TYPE, value=packed)
        message.extensions.add(name=LABELS_EXTENSION, config=config)
    return message


def put_service(value: Service) -> wpb.Service:
    """Fields at their default stay absent, as upstream leaves them."""
    message = wpb.Service(
        name=value.name,
        namespace=value.namespace,
        hostname=value.hostname,
        ports=map(_put_port, value.ports),
        subject_alt_names=value.subject_alt_names,
        canonical=value.canonical,
        ingress_use_waypoint=value.ingress_use_waypoint,
        weighted_waypoints=[
            wpb.WeightedWaypoint(destination=_put_gateway(w.destination), weight=w.weight)
            for w in value.weighted_waypoints
        ],
    )
    message.ip_families = int(value.ip_families)  # type: ignore[assignment]
    message.visibility = int(value.visibility)  # type: ignore[assignment]
    for host in value.addresses:
        message.addresses.add(network=host.network, address=host.ip.packed)
    for span in value.ranges:
        network = span.cidr
        message.addresses.add(
            network=span.network,
            address=network.network_address.packed,
            length=network.prefixlen,
        )
    if value.waypoint:
        message.waypoint.CopyFrom(_put_gateway(value.waypoint))
    balancing = value.load_balancing
    if balancing != service.LoadBalancing():
        scopes = map(int, balancing.routing_preference)
        message.load_balancing.routing_preference.extend(scopes)  # type: ignore[arg-type]
        message.load_balancing.mode = int(balancing.mode)  # type: ignore[assignment]
        policy = int(balancing.health_policy)
        message.load_balancing.health_policy = policy  # type: ignore[assignment]
    return message


def _put_port(value: Port) -> wpb.Port:
    message = wpb.Port(service_port=value.service_port, target_port=value.target_port)
    message.app_protocol = int(value.app_protocol)  # type: ignore[assignment]
    return message


def _put_gateway(value: GatewayAddress) -> wpb.GatewayAddress:
    message = wpb.GatewayAddress(hbone_mtls_port=value.hbone_mtls_port)
    match value.destination:
        case NamespacedHostname(namespace, hostname):
            message.hostname.namespace = namespace
            message.hostname.hostname = hostname
        case NetworkAddress(network, ip):
            message.address.network = network
            message.address.address = ip.packed
    return message
