"""Gateways of other networks, as far as one cluster needs them: where a WorkloadEntry or an
endpoint of another network is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.ports import HBONE_PORT
from ambient.api.service import GatewayAddress, NamespacedHostname
from ambient.api.workload import TunnelProtocol, Workload
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.inputs import NETWORK_LABEL
from istiod_lite.core.waypoints import SERVICE_ACCOUNT_ANNOTATION
from istiod_lite.core.workload_entries import Place, place_of

REMOTE_CLASS: Final = "istio-remote"
"""A Gateway that stands for one that runs elsewhere (Istio)."""
EAST_WEST_CLASS: Final = "istio-east-west"
"""A Gateway that takes HBONE from other networks."""


def address(gateway: objects.Gateway) -> GatewayAddress | None:
    """Where the gateway takes HBONE; None for a Gateway that is none, or has no address."""
    found = _place(gateway)
    if found is None:
        return None
    place, port = found
    if place.hostname:
        return GatewayAddress(NamespacedHostname(gateway.metadata.namespace, place.hostname), port)
    return GatewayAddress(NetworkAddress(network_of(gateway), place.addresses[0]), port)


def network_of(gateway: objects.Gateway) -> str:
    """The network that lies behind it."""
    return gateway.metadata.label(NETWORK_LABEL) or ""


def workloads(gateway: objects.Gateway, facts: MeshFacts) -> Iterator[Workload]:
    """The gateway as a workload, so that tunnels know whom to expect at its address."""
    found, network = _place(gateway), network_of(gateway)
    if found is None or network == facts.network:
        return
    place, port = found
    metadata = gateway.metadata
    account = metadata.annotation(SERVICE_ACCOUNT_ANNOTATION)
    at = place.hostname or str(place.addresses[0])
    yield Workload(
        uid=f"NetworkGateway/{network}/{at}/{port}",
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=place.addresses,
        hostname=place.hostname,
        network=network,
        tunnel_protocol=TunnelProtocol.HBONE,
        trust_domain=facts.trust_domain,
        service_account=account or f"{metadata.name}-{REMOTE_CLASS}",
        canonical_name=metadata.name,
        canonical_revision="latest",
        workload_name=metadata.name,
        cluster_id=facts.cluster_id,
    )


def east_west(gateway: objects.Gateway, facts: MeshFacts) -> Workload | None:
    """The gateway by which others reach the cluster that it stands in, whose facts these are; None
    for other Gateways and for one without an address.
    """
    if gateway.spec.gateway_class_name != EAST_WEST_CLASS or not facts.network:
        return None
    listeners = gateway.spec.listeners or ()
    port = next((one.port for one in listeners if one.protocol == "HBONE"), None) or HBONE_PORT
    place = next(
        (
            place_of(one.value)
            for one in gateway.status.addresses or ()
            if one.value and (one.type == "Hostname" or parse_ip(one.value))
        ),
        None,
    )
    if place is None:
        return None
    metadata = gateway.metadata
    at = place.hostname or str(place.addresses[0])
    return Workload(
        uid=f"NetworkGateway/{facts.network}/{at}/{port}",
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=place.addresses,
        hostname=place.hostname,
        network=facts.network,
        tunnel_protocol=TunnelProtocol.HBONE,
        trust_domain=facts.trust_domain,
        service_account=metadata.annotation(SERVICE_ACCOUNT_ANNOTATION) or metadata.name,
        canonical_name=metadata.name,
        canonical_revision="latest",
        workload_name=metadata.name,
        cluster_id=facts.cluster_id,
    )


def way_to(gateway: Workload) -> GatewayAddress:
    """How a workload behind it names the gateway."""
    port = int(gateway.uid.rpartition("/")[2])
    if gateway.hostname:
        return GatewayAddress(NamespacedHostname(gateway.namespace, gateway.hostname), port)
    return GatewayAddress(NetworkAddress(gateway.network, gateway.addresses[0]), port)


def _place(gateway: objects.Gateway) -> tuple[Place, int] | None:
    if gateway.spec.gateway_class_name != REMOTE_CLASS or not network_of(gateway):
        return None
    port = next((one.port for one in gateway.spec.listeners or () if one.protocol == "HBONE"), None)
    for one in (*(gateway.status.addresses or ()), *(gateway.spec.addresses or ())):
        if one.value and port is not None and (one.type == "Hostname" or parse_ip(one.value)):
            return place_of(one.value), port or HBONE_PORT
    return None
