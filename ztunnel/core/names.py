"""Names of the mesh: which questions a node tunnel answers itself, and with what.

The rules are upstream's (ztunnel src/dns/server.rs) with one change: where what we know of a
headless service yields no address, the cluster's own DNS is asked. It also knows services that the
mesh does not (ExternalName, endpoints without a pod), and says NXDOMAIN where that is the truth.
Everything that is no address of a visible service is somebody else's to answer, so nothing here
ever says NXDOMAIN.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from ambient.api.address import IPAddress
from ambient.api.service import HealthPolicy, IPFamilies, NamespacedHostname, Service
from ambient.api.workload import WorkloadStatus
from ambient.state.core.mesh import MeshState
from ztunnel.core.dns_message import A_RECORD, AAAA_RECORD

TTL_S: Final = 30  # ztunnel's; addresses of services change slowly


class Zone(NamedTuple):
    """What is the same for every pod of the node."""

    domain: str = "cluster.local"
    """The cluster's DNS domain."""
    preferred_namespace: str = ""
    """Whose service wins where several namespaces have the name (PREFERED_SERVICE_NAMESPACE)."""
    ipv6: bool = True
    """False: services have no IPv6 addresses."""


class Asker(NamedTuple):
    """The pod that asks."""

    namespace: str
    network: str = ""


class Answer(NamedTuple):
    """Ours to answer. No addresses: the name exists and has none of this family (NODATA)."""

    service: NamespacedHostname
    addresses: tuple[IPAddress, ...] = ()
    """In a stable order; whoever sends them shuffles."""
    alias: str = ""
    """Set: the name asked for is an alias (CNAME) of this one, which has the addresses."""


class Forward(NamedTuple):
    """Somebody else's to answer."""

    reason: str


class _Candidate(NamedTuple):
    name: str
    stripped: str
    """The name asked for without a search domain; empty where none was taken off."""


def resolve(state: MeshState, zone: Zone, asker: Asker, name: str, kind: int) -> Answer | Forward:
    """The answer to a question for ``name`` (lower case, no final dot) of a QTYPE."""
    if kind not in (A_RECORD, AAAA_RECORD):
        return Forward("not a question for addresses")
    for candidate in _candidates(name, zone.domain, asker.namespace):
        for pattern in _patterns(candidate.name):
            service = _service(state, zone, asker, pattern)
            if service is None:
                continue
            answer = _answer(state, zone, asker, service, kind)
            if isinstance(answer, Answer) and answer.addresses and not pattern.startswith("*"):
                return answer._replace(alias=candidate.stripped)
            return answer
    return Forward("no service of the mesh")


def _candidates(name: str, domain: str, namespace: str) -> Iterator[_Candidate]:
    """The names that the pod may mean, likeliest first.

    A pod's resolver appends its search domains before it asks; we take them off again, so that
    ``www.example.com.shop.svc.cluster.local`` finds a ServiceEntry for ``www.example.com``.
    """
    if not name:
        return
    seen = set()
    for search in ("", f".{namespace}.svc.{domain}", f".svc.{domain}", f".{domain}"):
        if not name.endswith(search) or len(name) <= len(search):
            continue
        bare = name.removesuffix(search) if search else name
        for full in (bare, *_expansions(bare, domain, namespace)):
            if full not in seen:
                seen.add(full)
                yield _Candidate(full, bare if search else "")


def _expansions(name: str, domain: str, namespace: str) -> tuple[str, ...]:
    """The Kubernetes names that a short name can stand for, by its number of labels."""
    ends_in_svc = name.endswith(".svc")
    match name.count(".") + 1:
        case 1:
            return (f"{name}.{namespace}.svc.{domain}",)
        case 2:
            return f"{name}.svc.{domain}", f"{name}.{namespace}.svc.{domain}"
        case 3 if ends_in_svc:
            return f"{name}.{domain}", f"{name}.svc.{domain}"
        case 3:
            return (f"{name}.svc.{domain}",)
        case 4 if ends_in_svc:
            return (f"{name}.{domain}",)
        case _:
            return ()


def _patterns(name: str) -> Iterator[str]:
    """The name, then the wildcards that cover it, the most specific first."""
    yield name
    _, dot, rest = name.partition(".")
    while dot:
        yield f"*.{rest}"
        _, dot, rest = rest.partition(".")


def _service(state: MeshState, zone: Zone, asker: Asker, hostname: str) -> Service | None:
    """The service of this very hostname that the pod sees, if it is ours to answer for.

    Without virtual addresses only Kubernetes' headless services are: the addresses behind a
    ServiceEntry without any are found by resolving its host.
    """
    headless = hostname.endswith(f".svc.{zone.domain}")
    found = state.services.visible(hostname, asker.namespace)
    eligible = [service for service in found if service.addresses or headless]
    return min(
        eligible,
        key=lambda s: (
            s.namespace != asker.namespace,
            not s.canonical,
            s.namespace != zone.preferred_namespace,
            s.key,
        ),
        default=None,
    )


def _answer(
    state: MeshState, zone: Zone, asker: Asker, service: Service, kind: int
) -> Answer | Forward:
    """The service's addresses of this family, as far as the pod can reach them."""
    if service.addresses:
        addresses = [a.ip for a in service.addresses if a.network == asker.network]
    else:
        endpoints = [e for e in _endpoint_addresses(state, service) if e]
        if not endpoints:
            return Forward("a headless service without an endpoint that we know")
        addresses = [ip for each in endpoints for ip in _first_of(each, kind)]
    if not _has_family(service, zone, kind):
        addresses = []
    return Answer(service.key, tuple(dict.fromkeys(ip for ip in addresses if _kind(ip) == kind)))


def _has_family(service: Service, zone: Zone, kind: int) -> bool:
    """A headless service of one family stays so, whatever addresses its pods have."""
    if kind == AAAA_RECORD:
        return zone.ipv6 and service.ip_families is not IPFamilies.IPV4_ONLY
    return service.ip_families is not IPFamilies.IPV6_ONLY


def _first_of(addresses: tuple[IPAddress, ...], kind: int) -> list[IPAddress]:
    """An endpoint counts once, however many addresses it has."""
    return [ip for ip in addresses if _kind(ip) == kind][:1]


def _endpoint_addresses(state: MeshState, service: Service) -> Iterator[tuple[IPAddress, ...]]:
    """The addresses of each endpoint that is healthy enough."""
    all_allowed = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
    for workload, _ in state.endpoints(service):
        if workload.status is WorkloadStatus.HEALTHY or all_allowed:
            yield workload.addresses


def _kind(ip: IPAddress) -> int:
    return A_RECORD if isinstance(ip, IPv4Address) else AAAA_RECORD
