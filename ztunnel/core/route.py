"""Where a captured outbound connection goes next, and why: one pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress
from ambient.api.ports import HBONE_PORT, ILLEGAL_DESTINATIONS
from ambient.api.service import GatewayAddress, IPFamilies, Mode, NamespacedHostname, Service
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol, Workload
from ambient.state.core.mesh import Endpoint, MeshState
from ztunnel.core.balance import Candidate, Draw, candidates, choose, choose_waypoint


class Protocol(StrEnum):
    """How the next hop is spoken to."""

    TCP = "TCP"
    HBONE = "HBONE"
    DOUBLE_HBONE = "DOUBLEHBONE"
    """HBONE to the gateway of another network, and inside it HBONE to the destination."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The next hop of a connection, and the evidence for it."""

    protocol: Protocol
    target: HostPort
    """The TCP destination. Its host may be a name: then ``with_addresses`` has to be asked."""
    authority: str = ""
    """``:authority`` of the CONNECT (of both, where there are two); empty for plain TCP."""
    identities: frozenset[Identity] = frozenset()
    """Whom the other end may prove to be; empty for plain TCP."""
    inner_identities: frozenset[Identity] = frozenset()
    """Whom the end of the inner tunnel may prove to be; empty unless double HBONE."""
    service: Service | None = None
    """The service that the client asked for."""
    workload: Workload | None = None
    """Who takes the TCP connection: the chosen endpoint, the waypoint's pod or the gateway's."""
    via_waypoint: bool = False
    reason: str


class NoRoute(msgspec.Struct, frozen=True, kw_only=True):
    """The connection cannot go anywhere; ``hint`` says what would have to change."""

    reason: str
    hint: str = ""
    service: Service | None = None


class _UnroutableError(Exception):
    """Ends a decision from within; never leaves this module."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


UNKNOWN: Final = "no workload or service has this address"
REGISTER: Final = (
    "declare it with a ServiceEntry, or set outboundTrafficPolicy.mode of the mesh configuration "
    "to ALLOW_ANY"
)
NONE_TRIED: Final[frozenset[str]] = frozenset()


def route(
    state: MeshState,
    client: Workload,
    original: HostPort,
    draw: Draw,
    tried: frozenset[str] = NONE_TRIED,
    illegal: frozenset[int] = ILLEGAL_DESTINATIONS,
) -> Route | NoRoute:
    """Decide the next hop of ``client``'s connection to ``original`` (an IP and a port).

    ``tried``: uids of workloads that could not be reached just now, and are left out.
    ``illegal``: our own ports, which on our own addresses would lead back to ourselves.
    """
    ip = _ip(original)
    if original.port in illegal and (ip.is_loopback or ip in client.addresses):
        return NoRoute(reason="attempted recursive call to ourselves")
    address = NetworkAddress(client.network, ip)
    workload = state.workload_by_address(address)
    service = state.service_by_address(address, client.namespace)
    decision = _Decision(state, client, original, draw, tried)
    try:
        if service is not None:
            return decision.to_service(service, hidden=workload is not None)
        if workload is not None:
            return decision.to_workload(workload)
    except _UnroutableError as error:
        return NoRoute(reason=error.reason, hint=error.hint, service=service)
    if state.registry_only:
        return NoRoute(reason=f"{UNKNOWN}, and the mesh lets nothing else pass", hint=REGISTER)
    return decision.passthrough(UNKNOWN)


def with_addresses(
    hop: Route, original: HostPort, addresses: Sequence[IPAddress], draw: Draw
) -> Route | NoRoute:
    """``hop`` with the name of its target resolved to ``addresses``: one that the service's
    families allow, of the client's family where there is one.
    """
    name = hop.target.host
    to_endpoint = hop.protocol is not Protocol.DOUBLE_HBONE and not hop.via_waypoint
    families = hop.service.ip_families if hop.service and to_endpoint else IPFamilies.AUTOMATIC
    usable = _of_families(addresses, families)
    asked = original.ip
    same = [ip for ip in usable if asked and ip.version == asked.version] or usable
    if not same:
        return NoRoute(
            reason=f"no ip addresses were resolved for {name} ({hop.reason})",
            hint=f"does the DNS of the tunnel's node know {name}, with an address of a family "
            "that the service has?",
            service=hop.service,
        )
    ip = same[min(int(draw() * len(same)), len(same) - 1)]
    target = HostPort(str(ip), hop.target.port)
    hop = msgspec.structs.replace(hop, target=target)
    host, _, port = hop.authority.rpartition(":")
    if to_endpoint and host == name:
        hop = msgspec.structs.replace(hop, authority=str(HostPort(str(ip), int(port))))
    return hop


INNER_IDENTITY_HINT: Final = (
    "the control plane has to name the service's subject alternative names, which it learns from "
    "the remote cluster"
)


def no_inner_identity(hop: Route) -> str:
    """Why nobody can be trusted at the end of a double tunnel without ``inner_identities``."""
    service = hop.service.key if hop.service else ""
    return f"service {service} names no identity that its endpoints in other networks may prove"


def _ip(original: HostPort) -> IPAddress:
    ip = original.ip
    assert ip is not None  # captured connections, and SOCKS after its lookup, have addresses
    return ip


class _Decision:
    """The facts of one decision, so that its steps need not hand them around."""

    def __init__(
        self,
        state: MeshState,
        client: Workload,
        original: HostPort,
        draw: Draw,
        tried: frozenset[str],
    ) -> None:
        self._state = state
        self._client = client
        self._original = original
        self._ip: IPAddress = _ip(original)
        self._draw = draw
        self._tried = tried

    def to_service(self, service: Service, *, hidden: bool) -> Route:
        """``hidden``: a workload has the same address, then the service's waypoint has no say."""
        weighted = choose_waypoint(service.weighted_waypoints, self._draw)
        waypoint = weighted.destination if weighted else service.waypoint
        if waypoint is not None and not hidden and not self._is_own_waypoint(waypoint):
            return self._to_waypoint(waypoint, service, f"waypoint of service {service.key}")
        if service.load_balancing.mode is Mode.PASSTHROUGH:
            return self.passthrough(f"service {service.key} asks for passthrough", service)
        return self._to_endpoint(self._choose_endpoint(service), service)

    def to_workload(self, workload: Workload) -> Route:
        if workload.waypoint is not None and not self._is_own_waypoint(workload.waypoint):
            why = f"waypoint of workload {workload.uid}"
            return self._to_waypoint(workload.waypoint, None, why)
        if workload.uid in self._tried:
            raise _UnroutableError(f"workload {workload.uid} cannot be reached", "is it running?")
        return self._to_endpoint(Candidate(workload, self._original.port), None)

    def passthrough(self, reason: str, service: Service | None = None) -> Route:
        return Route(protocol=Protocol.TCP, target=self._original, service=service, reason=reason)

    def _choose_endpoint(self, service: Service) -> Candidate:
        found = candidates(service, self._members(service), self._original.port)
        network = self._client.network
        reachable = [
            one
            for one in found
            if one.workload.network == network or one.workload.network_gateway is not None
        ]
        chosen = choose(reachable, service.load_balancing, self._client, self._draw)
        if chosen is not None:
            return chosen
        if found and not reachable:
            far = found[0].workload
            raise _UnroutableError(
                f"no valid routing destination for service {service.key} ({self._original}): "
                f"{far.uid} is in network {far.network!r}, of which no gateway is known",
                f"does network {far.network!r} have an east-west gateway with an address?",
            )
        raise _UnroutableError(
            f"no healthy upstream: {self._original}",
            f"does service {service.key} have ready endpoints for port {self._original.port}?",
        )

    def _members(self, service: Service) -> Sequence[Endpoint]:
        endpoints = self._state.endpoints(service)
        if not self._tried:
            return endpoints
        return [one for one in endpoints if one.workload.uid not in self._tried]

    def _to_endpoint(self, chosen: Candidate, service: Service | None) -> Route:
        workload, port = chosen
        of = f"endpoint {workload.uid} of service {service.key}" if service else workload.uid
        if workload.network != self._client.network:
            return self._across(workload, service, _identities(service), of)
        host = self._host_of(workload, service)
        target = HostPort(host, port)
        if workload.tunnel_protocol is TunnelProtocol.HBONE:
            return Route(
                protocol=Protocol.HBONE,
                target=HostPort(host, HBONE_PORT),
                authority=str(target),
                identities=_identities(service) | {workload.identity},
                service=service,
                workload=workload,
                reason=f"{of} is in the mesh",
            )
        return Route(
            protocol=Protocol.TCP,
            target=target,
            service=service,
            workload=workload,
            reason=f"{of} is not in the mesh",
        )

    def _to_waypoint(self, at: GatewayAddress, service: Service | None, why: str) -> Route:
        chosen, owner = self._resolve(at, "waypoint")
        workload, port = chosen
        if workload.network != self._client.network:
            hop = self._across(workload, service, _identities(owner), why)
            return msgspec.structs.replace(hop, via_waypoint=True)
        return Route(
            protocol=Protocol.HBONE,
            target=HostPort(self._host_at(at, workload, owner), port),
            authority=str(self._original),
            identities=_identities(owner) | {workload.identity},
            service=service,
            workload=workload,
            via_waypoint=True,
            reason=why,
        )

    def _across(
        self, workload: Workload, service: Service | None, inner: frozenset[Identity], why: str
    ) -> Route:
        """Through the gateway of ``workload``'s network, which is asked for the service's name."""
        far = workload.network
        if service is None:
            raise _UnroutableError(
                f"{workload.uid} is in network {far!r} and {self._original} is no service",
                "call it by the address of a service: gateways know services only",
            )
        at = workload.network_gateway
        if at is None:
            raise _UnroutableError(
                f"no valid routing destination for service {service.key} ({self._original}): "
                f"{workload.uid} is in network {far!r}, of which no gateway is known",
                f"does network {far!r} have an east-west gateway with an address?",
            )
        (gateway, port), owner = self._resolve(at, "network gateway")
        return Route(
            protocol=Protocol.DOUBLE_HBONE,
            target=HostPort(self._host_at(at, gateway, owner), port),
            authority=str(HostPort(service.hostname, self._original.port)),
            identities=_identities(owner) | {gateway.identity},
            inner_identities=inner,
            service=service,
            workload=gateway,
            reason=f"{why}, through the gateway of network {far!r}",
        )

    def _resolve(self, at: GatewayAddress, kind: str) -> tuple[Candidate, Service | None]:
        """The pod and port behind a waypoint or network gateway, and its service (if any)."""
        service, workload = find_gateway(self._state, at)
        if service is not None:
            found = candidates(service, self._members(service), at.hbone_mtls_port, any_port=True)
            chosen = choose(found, service.load_balancing, self._client, self._draw)
            if chosen is None:
                raise _UnroutableError(
                    f"no healthy upstream: {kind} {service.key}:{at.hbone_mtls_port}",
                    f"is the {kind}'s pod ready?",
                )
            return chosen, service
        if workload is None:
            remedy = "apply the waypoint again, or remove the istio.io/use-waypoint label"
            raise _UnroutableError(
                f"unknown {kind}: {_spell(at.destination)}",
                remedy if kind == "waypoint" else "does the gateway's Service have an address?",
            )
        if workload.uid in self._tried:
            raise _UnroutableError(f"{kind} {workload.uid} cannot be reached", "is it running?")
        return Candidate(workload, at.hbone_mtls_port), None

    def _is_own_waypoint(self, at: GatewayAddress) -> bool:
        """Does the client speak as the waypoint itself? Its traffic must not enter it twice."""
        service, workload = find_gateway(self._state, at)
        if service is not None:
            behind: Iterable[Workload] = (e.workload for e in self._state.endpoints(service))
        else:
            behind = () if workload is None else (workload,)
        return any(
            one.uid == self._client.uid and one.identity == self._client.identity for one in behind
        )

    def _host_at(self, at: GatewayAddress, workload: Workload, owner: Service | None) -> str:
        """As ``_host_of``, but the very address that the reference names where it is one."""
        asked = at.destination.ip if isinstance(at.destination, NetworkAddress) else None
        return str(asked) if asked in workload.addresses else self._host_of(workload, owner)

    def _host_of(self, workload: Workload, service: Service | None) -> str:
        """The address asked for, else one of a family that the service has and the client used;
        the name of a workload that has no address.
        """
        if self._ip in workload.addresses:
            return str(self._ip)
        families = service.ip_families if service else IPFamilies.AUTOMATIC
        usable = _of_families(workload.addresses, families)
        same = [ip for ip in usable if ip.version == self._ip.version]
        if usable:
            return str((same or usable)[0])
        if workload.hostname and not workload.addresses:
            return workload.hostname
        raise _UnroutableError(
            f"workload {workload.uid} has no address to send to ({self._original})",
            "give the WorkloadEntry or ServiceEntry endpoint an IP address or a host name",
        )


def missing(
    state: MeshState, client: Workload, original: HostPort
) -> list[NetworkAddress | NamespacedHostname]:
    """What ``route`` would have to know and does not: the destination, or waypoints and gateways
    that it names.
    """
    address = NetworkAddress(client.network, _ip(original))
    workload = state.workload_by_address(address)
    service = state.service_by_address(address, client.namespace)
    if workload is None and service is None:
        return [address]
    named: list[GatewayAddress | None] = [*waypoints_of(service), *waypoints_of(workload)]
    if service is not None:
        named += [one.workload.network_gateway for one in state.endpoints(service)]
    for at in [at for at in named if at is not None]:
        owner, waypoint = find_gateway(state, at)
        named += [one.workload.network_gateway for one in state.endpoints(owner)] if owner else []
        named += [waypoint.network_gateway] if waypoint else []
    unknown = [at for at in named if at is not None and find_gateway(state, at) == (None, None)]
    return list(dict.fromkeys(at.destination for at in unknown))


def waypoints_of(fronted: Service | Workload | None) -> list[GatewayAddress]:
    """Every waypoint that may be asked for it."""
    if fronted is None:
        return []
    found = [fronted.waypoint] if fronted.waypoint is not None else []
    if isinstance(fronted, Service):
        found += [weighted.destination for weighted in fronted.weighted_waypoints]
    return found


def find_gateway(state: MeshState, at: GatewayAddress) -> tuple[Service | None, Workload | None]:
    """The service or else the workload that a waypoint reference names."""
    if isinstance(at.destination, NetworkAddress):
        service = state.service_by_address(at.destination)
        return service, None if service else state.workload_by_address(at.destination)

    service = state.service(at.destination)
    if service is not None:
        return service, None
    namespace, hostname = at.destination
    named = (w for w in state.workloads if w.hostname == hostname and w.namespace == namespace)
    return None, next(named, None)


def _identities(service: Service | None) -> frozenset[Identity]:
    """The service's own subject names; one that is no SPIFFE id can never be proven."""
    found = set()
    for name in service.subject_alt_names if service else ():
        try:
            found.add(Identity.parse(name))
        except ValueError:
            continue
    return frozenset(found)


def _of_families(addresses: Sequence[IPAddress], families: IPFamilies) -> list[IPAddress]:
    return [
        ip
        for ip in addresses
        if not (families is IPFamilies.IPV4_ONLY and ip.version == 6)
        and not (families is IPFamilies.IPV6_ONLY and ip.version == 4)
    ]


def _spell(destination: NamespacedHostname | NetworkAddress) -> str:
    if isinstance(destination, NetworkAddress):
        return f"{destination.network}/{destination.ip}"
    return str(destination)
