"""ServiceEntry to services, one a host, and to the workloads of its inline endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Final

import msgspec

from ambient.api.address import NetworkAddress, canonical, parse_ip
from ambient.api.policy import IPNetwork
from ambient.api.service import (
    AddressRange,
    AppProtocol,
    HealthPolicy,
    LoadBalancing,
    Mode,
    NamespacedHostname,
    Port,
    Service,
    Visibility,
)
from ambient.api.workload import TunnelProtocol, Workload, WorkloadType
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import (
    ServiceEntry,
    WorkloadEntry,
    WorkloadEntrySpec,
)
from istiod_lite.core import workload_entries
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.pods import canonical_name, canonical_revision, container_port
from istiod_lite.core.services import distribution, ingress_use_waypoint
from istiod_lite.core.waypoints import Binding
from istiod_lite.core.workload_entries import EntrySurroundings

AUTO_ADDRESS_LABEL: Final = "networking.istio.io/enable-autoallocate-ip"
NO_RESOLUTION: Final = "NONE"
DYNAMIC: Final = "DYNAMIC_DNS"
DNS: Final = frozenset({"DNS", "DNS_ROUND_ROBIN", DYNAMIC})
RESOLUTIONS: Final = frozenset({NO_RESOLUTION, "STATIC", *DNS})
_PROTOCOLS: Final = {
    "HTTP": AppProtocol.HTTP11,
    "HTTP2": AppProtocol.HTTP2,
    "GRPC": AppProtocol.GRPC,
    "TCP": AppProtocol.TCP,
    "HTTPS": AppProtocol.TLS,
    "TLS": AppProtocol.TLS,
}


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the services of a ServiceEntry take from other objects."""

    namespace: objects.Metadata | None
    binding: Binding
    private: bool
    canonical: Callable[[str], bool]
    """Whether this entry speaks for a host in the whole mesh."""


def services(
    entry: ServiceEntry, hosts: Iterable[str], around: HostFacts, facts: MeshFacts
) -> Iterator[Service]:
    """The services of these hosts, for which the entry speaks in its namespace."""
    spec, binding = entry.spec, around.binding
    for host in hosts:
        single, ranges = _addresses(entry, host, facts)
        yield Service(
            name=entry.metadata.name,
            namespace=entry.metadata.namespace,
            hostname=host,
            addresses=single,
            ranges=ranges,
            ports=tuple(
                Port(port.number, port.target_port or port.number, app_protocol(port.protocol))
                for port in spec.ports or ()
            ),
            subject_alt_names=spec.subject_alt_names or (),
            waypoint=binding.address,
            weighted_waypoints=binding.weighted,
            load_balancing=_load_balancing(entry, around.namespace),
            canonical=around.canonical(host),
            ingress_use_waypoint=ingress_use_waypoint(
                entry.metadata, around.namespace, binding, facts
            ),
            visibility=Visibility.NAMESPACE if around.private else Visibility.PUBLIC,
        )


def app_protocol(text: str) -> AppProtocol:
    """What a port speaks; also of names such as ``HTTP-web``, as Istio reads them."""
    known = _PROTOCOLS.get(text.upper())
    return known or _PROTOCOLS.get(text.upper().partition("-")[0], AppProtocol.UNKNOWN)


def endpoints(
    entry: ServiceEntry,
    hosts: Iterable[str],
    around: Callable[[WorkloadEntrySpec], EntrySurroundings],
    facts: MeshFacts,
) -> Iterator[Workload]:
    """Workloads of the inline endpoints, behind all ``hosts``; with none nobody could find them.

    A host of a DNS entry without endpoints and selector is its own endpoint.
    """
    namespace, names = entry.metadata.namespace, tuple(hosts)
    if not names or entry.spec.resolution == NO_RESOLUTION:
        return
    seen = set()
    for one in entry.spec.endpoints or ():
        if one.address and one.address not in seen:
            seen.add(one.address)
            ports = _ports(entry, one.ports)
            members = {NamespacedHostname(namespace, host): ports for host in names}
            surroundings = msgspec.structs.replace(around(one), services=members)
            yield _workload(entry, one, surroundings, facts)
    if entry.spec.endpoints or entry.selector or entry.spec.resolution not in DNS:
        return
    for host in names:
        if not host.startswith("*"):  # a name with a wildcard resolves to nothing
            spec = WorkloadEntrySpec(address=host)
            policies = around(spec).policies
            ports = _ports(entry, None)
            own = EntrySurroundings(
                services={NamespacedHostname(namespace, host): ports}, policies=policies
            )
            yield _workload(entry, spec, own, facts)


def _workload(
    entry: ServiceEntry, one: WorkloadEntrySpec, around: EntrySurroundings, facts: MeshFacts
) -> Workload:
    metadata = entry.metadata
    labels = metadata.labels or {}
    kind = "networking.istio.io/ServiceEntry"
    place = workload_entries.place_of(one.address)
    native = workload_entries.is_native(one.labels or {})
    return Workload(
        uid=f"{facts.cluster_id}/{kind}/{metadata.namespace}/{metadata.name}/{one.address}",
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=place.addresses,
        hostname=place.hostname,
        network=one.network or facts.network,
        tunnel_protocol=TunnelProtocol.HBONE if native else TunnelProtocol.NONE,
        trust_domain=facts.trust_domain,
        service_account=one.service_account,
        waypoint=around.waypoint,
        network_gateway=around.network_gateway,
        canonical_name=canonical_name(labels, metadata.name),
        canonical_revision=canonical_revision(labels),
        workload_type=WorkloadType.POD,
        workload_name=metadata.name,
        native_tunnel=native,
        authorization_policies=around.policies,
        cluster_id=facts.cluster_id,
        services=around.services,
        locality=workload_entries.locality(one.locality),
        capacity=workload_entries.capacity(one),
        labels=one.labels or {},
    )


def ports_of_pod(entry: ServiceEntry, pod: objects.Pod) -> tuple[Port, ...]:
    """Where a selected pod is reached: by its container port of the same name first."""
    own = {port.name: container_port(pod, port.name) for port in entry.spec.ports or ()}
    return _ports(entry, own)


def ports_of_workload(entry: ServiceEntry, workload: WorkloadEntry) -> tuple[Port, ...]:
    """Where a selected WorkloadEntry is reached."""
    return _ports(entry, workload.spec.ports)


def _ports(entry: ServiceEntry, own: Mapping[str, int | None] | None) -> tuple[Port, ...]:
    """The workload's own number for a port's name, else the entry's target, else the number."""
    return tuple(
        Port(port.number, (own or {}).get(port.name) or port.target_port or port.number)
        for port in entry.spec.ports or ()
    )


def allocates(entry: ServiceEntry, host: str) -> bool:
    """Whether a host gets virtual addresses from us, and may use those that it has."""
    return (
        not entry.spec.addresses
        and entry.spec.resolution != NO_RESOLUTION
        and entry.metadata.label(AUTO_ADDRESS_LABEL) != "false"
        and (not host.startswith("*") or entry.spec.resolution == DYNAMIC)
    )


def network(text: str) -> IPNetwork | None:
    """An address or a CIDR without its host bits; None where it is neither."""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        return None
    if found.num_addresses == 1:
        return ip_network(canonical(found.network_address))
    return found


def _addresses(
    entry: ServiceEntry, host: str, facts: MeshFacts
) -> tuple[tuple[NetworkAddress, ...], tuple[AddressRange, ...]]:
    """Single virtual addresses and ranges."""
    if entry.spec.addresses:
        found = [one for one in map(network, entry.spec.addresses) if one is not None]
        return (
            tuple(
                NetworkAddress(facts.network, one.network_address)
                for one in found
                if one.num_addresses == 1
            ),
            tuple(AddressRange(facts.network, one) for one in found if one.num_addresses > 1),
        )
    if not facts.allocate_addresses or not allocates(entry, host):
        return (), ()
    assigned = (one.value for one in entry.status.addresses or () if one.host == host)
    ips = [ip for ip in map(parse_ip, assigned) if ip is not None]
    return tuple(NetworkAddress(facts.network, ip) for ip in ips), ()


def _load_balancing(entry: ServiceEntry, namespace: objects.Metadata | None) -> LoadBalancing:
    if entry.spec.resolution == NO_RESOLUTION:
        return LoadBalancing(mode=Mode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)
    return distribution(None, entry.metadata, namespace)


def remarks(entry: ServiceEntry) -> tuple[str, ...]:
    """What the user should know about it, one sentence each."""
    spec = entry.spec
    found = []
    if not spec.hosts:
        found.append("spec.hosts is empty: the entry names nothing")
    if "*" in spec.hosts:
        found.append("host '*' would stand for everything and is ignored")
    if spec.resolution not in RESOLUTIONS:
        found.append(f"resolution {spec.resolution!r} is unknown and taken as STATIC")
    found += [
        f"address {one!r} is no IP address or CIDR and is ignored"
        for one in spec.addresses or ()
        if network(one) is None
    ]
    if spec.resolution == NO_RESOLUTION and spec.endpoints:
        found.append("endpoints need resolution STATIC or DNS and are ignored with NONE")
    if spec.endpoints and spec.workload_selector is not None:
        found.append("endpoints and workloadSelector are both set: all of them are used")
    addresses = [one.address for one in spec.endpoints or ()]
    found += [
        f"endpoint {one!r} is there more than once: only the first is used"
        for one in dict.fromkeys(addresses)
        if addresses.count(one) > 1
    ]
    if spec.resolution == "STATIC":
        found += [
            f"endpoint {one!r} is a name, which needs resolution DNS"
            for one in addresses
            if workload_entries.place_of(one).hostname
        ]
    if spec.export_to and spec.export_to != ("*",):
        found.append(
            "exportTo is not observed in ambient mode: "
            "set serviceEntryVisibility in the mesh configuration"
        )
    return tuple(found)


def hosts_of(entry: ServiceEntry) -> tuple[str, ...]:
    """The hosts that it claims."""
    return tuple(dict.fromkeys(host for host in entry.spec.hosts if host and host != "*"))
