"""WorkloadEntry to workload: what runs outside Kubernetes, or where Kubernetes does not see it."""

from __future__ import annotations

from typing import Final

import msgspec

from ambient.api.address import IPAddress, parse_ip
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.api.workload import Locality, TunnelProtocol, Workload, WorkloadType
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import WorkloadEntry, WorkloadEntrySpec
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.pods import TUNNEL_LABEL, canonical_name, canonical_revision

GROUP_ANNOTATION: Final = "istio.io/autoRegistrationGroup"
UNIX: Final = "unix://"


class EntrySurroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload outside Kubernetes takes from other objects."""

    services: dict[NamespacedHostname, tuple[Port, ...]] = {}
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    policies: tuple[str, ...] = ()


class Place(msgspec.Struct, frozen=True):
    """Where a workload is: by address, by name, or nowhere that anybody could call."""

    addresses: tuple[IPAddress, ...] = ()
    hostname: str = ""


def uid(entry: WorkloadEntry, facts: MeshFacts) -> str:
    """The xDS resource name."""
    metadata = entry.metadata
    kind = "networking.istio.io/WorkloadEntry"
    return f"{facts.cluster_id}/{kind}/{metadata.namespace}/{metadata.name}"


def translate(entry: WorkloadEntry, around: EntrySurroundings, facts: MeshFacts) -> Workload:
    """The mesh's view; always healthy, since nobody here checks it."""
    metadata, spec, labels = entry.metadata, entry.spec, entry.labels
    workload_name = (
        metadata.annotation(GROUP_ANNOTATION)
        or labels.get("service.istio.io/workload-name")
        or metadata.name
    )
    native = is_native(labels)
    enrolled = metadata.annotation(objects.REDIRECTION_ANNOTATION) == "enabled"
    place = place_of(spec.address)
    return Workload(
        uid=uid(entry, facts),
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=place.addresses,
        hostname=place.hostname,
        network=spec.network or facts.network,
        tunnel_protocol=TunnelProtocol.HBONE if native or enrolled else TunnelProtocol.NONE,
        trust_domain=facts.trust_domain,
        service_account=spec.service_account,
        waypoint=around.waypoint,
        network_gateway=around.network_gateway,
        canonical_name=canonical_name(labels, workload_name),
        canonical_revision=canonical_revision(labels),
        workload_type=WorkloadType.POD,
        workload_name=workload_name,
        native_tunnel=native,
        authorization_policies=around.policies,
        cluster_id=facts.cluster_id,
        services=around.services,
        locality=locality(spec.locality),
        capacity=capacity(spec),
        labels=labels,
    )


def place_of(address: str) -> Place:
    """Read ``address``: an IP, a name, or empty; a Unix socket is nowhere for a mesh."""
    if not address or address.startswith(UNIX):
        return Place()
    ip = parse_ip(address)
    return Place(addresses=(ip,)) if ip is not None else Place(hostname=address)


def is_native(labels: dict[str, str]) -> bool:
    """Whether the workload itself speaks HBONE."""
    return "http" in labels.get(TUNNEL_LABEL, "").split(",")


def locality(text: str) -> Locality:
    """``region/zone/subzone``; parts at the end may be left out."""
    parts = [*text.split("/"), "", ""]
    return Locality(parts[0], parts[1], parts[2])


def capacity(spec: WorkloadEntrySpec) -> int:
    """The weight; 1 is the wire's default."""
    return spec.weight if spec.weight > 0 else 1


def ports_of_service(entry: WorkloadEntry, service: objects.Service) -> tuple[Port, ...]:
    """Where a Kubernetes Service reaches the workload.

    An entry of ``ports`` by the service port's name counts first; a named target needs one.
    """
    named = entry.spec.ports or {}
    ports = {}
    for port in service.spec.ports or ():
        target = port.target_port or port.port
        number = named.get(port.name) or (target if isinstance(target, int) else named.get(target))
        if number and (port.protocol == "TCP" or port.port not in ports):
            ports[port.port] = Port(port.port, number)
    return tuple(ports.values())


def remarks(entry: WorkloadEntry) -> tuple[str, ...]:
    """What the user should know about it, one sentence each."""
    found = []
    if entry.spec.address.startswith(UNIX):
        found.append(f"address {entry.spec.address!r} is a Unix socket: the mesh cannot reach it")
    if entry.spec.weight < 0:
        found.append(f"weight {entry.spec.weight} is negative and taken as 1")
    return tuple(found)
