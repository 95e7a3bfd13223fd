"""EndpointSlice to workloads, and to the pods that a service without selector names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ambient.api.address import parse_ip
from ambient.api.service import NamespacedHostname, Port
from ambient.api.workload import NetworkMode, TunnelProtocol, Workload, WorkloadStatus
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.pods import locality
from istiod_lite.core.services import service_key


def service_of(slice_: objects.EndpointSlice) -> ObjectKey | None:
    """The Service that the slice belongs to."""
    name = slice_.metadata.label(objects.SERVICE_NAME_LABEL)
    return ObjectKey(slice_.metadata.namespace, name) if name else None


def pods_of(slice_: objects.EndpointSlice) -> Iterator[ObjectKey]:
    """The pods that the slice refers to."""
    for endpoint in slice_.endpoints or ():
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
            namespace = endpoint.target_ref.namespace or slice_.metadata.namespace
            yield ObjectKey(namespace, endpoint.target_ref.name)


def membership(
    pod: objects.Pod, slice_: objects.EndpointSlice, service: objects.Service
) -> tuple[Port, ...] | None:
    """The ports of a pod that the slice names, None where it does not name this very pod."""
    for endpoint in slice_.endpoints or ():
        ref = endpoint.target_ref
        if (
            ref is not None
            and ref.kind == "Pod"
            and ref.name == pod.metadata.name
            and (not ref.uid or ref.uid == pod.metadata.uid)
        ):
            return _ports(slice_, service)
    return None


def translate(
    slice_: objects.EndpointSlice,
    service: objects.Service,
    node: Callable[[str], objects.Node | None],
    facts: MeshFacts,
) -> Iterator[Workload]:
    """One workload for each address that is not a pod's, such as the API server's."""
    if slice_.address_type == "FQDN":
        return
    namespace, name = slice_.metadata.namespace, slice_.metadata.name
    prefix = f"{facts.cluster_id}/discovery.k8s.io/EndpointSlice/{namespace}/{name}"
    services: dict[NamespacedHostname, tuple[Port, ...]] = {
        service_key(service, facts): _ports(slice_, service)
    }
    for endpoint in slice_.endpoints or ():
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
            continue
        ready = endpoint.conditions.ready is not False
        for ip in (ip for ip in map(parse_ip, endpoint.addresses) if ip is not None):
            yield Workload(
                uid=f"{prefix}/{ip}",
                name=name,
                namespace=namespace,
                addresses=(ip,),
                network=facts.network,
                tunnel_protocol=TunnelProtocol.NONE,
                trust_domain=facts.trust_domain,
                service_account="",
                workload_name=name,
                canonical_name=service.metadata.name,
                canonical_revision="latest",
                node=endpoint.node_name or "",
                status=WorkloadStatus.HEALTHY if ready else WorkloadStatus.UNHEALTHY,
                cluster_id=facts.cluster_id,
                services=services,
                locality=locality(node(endpoint.node_name or "")),
                network_mode=NetworkMode.HOST_NETWORK,
            )


def _ports(slice_: objects.EndpointSlice, service: objects.Service) -> tuple[Port, ...]:
    numbers = {
        port.name or "": port.port
        for port in slice_.ports or ()
        if port.port and (port.protocol or "TCP") == "TCP"
    }
    return tuple(
        Port(port.port, number)
        for port in service.spec.ports or ()
        if (number := numbers.get(port.name)) is not None
    )
