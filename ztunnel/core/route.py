"""Where a captured outbound connection goes next, and why: one pure function."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import ip_address

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress
from ambient.api.ports import HBONE_PORT, ILLEGAL_DESTINATIONS
from ambient.api.service import GatewayAddress, IPFamilies, Mode, NamespacedHostname, Service
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol, Workload
from ambient.state.core.mesh import MeshState
from ztunnel.core.balance import Candidate, Draw, candidates, choose, choose_waypoint


class Protocol(StrEnum):
    """How the next hop is spoken to."""

    TCP = "TCP"
    HBONE = "HBONE"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The next hop of a connection, and the evidence for it."""

    protocol: Protocol
    target: HostPort
    """The TCP destination."""
    authority: str = ""
    """``:authority`` of the CONNECT; empty for plain TCP."""
    identities: frozenset[Identity] = frozenset()
    """Whom the other end may prove to be; empty for plain TCP."""
    service: Service | None = None
    """The service that the client asked for."""
    workload: Workload | None = None
    """Who takes the connection: the chosen endpoint, or the waypoint's pod."""
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


def route(state: MeshState, client: Workload, original: HostPort, draw: Draw) -> Route | NoRoute:
    """Decide the next hop of ``client``'s connection to ``original`` (an IP and a port)."""
    ip = ip_address(original.host)
    if original.port in ILLEGAL_DESTINATIONS and (ip.is_loopback or ip in client.addresses):
        return NoRoute(reason="attempted recursive call to ourselves")
    address = NetworkAddress(client.network, ip)
    workload = state.workload_by_address(address)
    service = state.service_by_address(address, client.namespace)
    decision = _Decision(state, client, original, ip, draw)
    try:
        if service is not None:
            return decision.to_service(service, hidden=workload is not None)
        if workload is not None:
            return decision.to_workload(workload)
    except _UnroutableError as error:
        return NoRoute(reason=error.reason, hint=error.hint, service=service)
    return decision.passthrough("no workload or service has this address")


class _Decision:
    """The facts of one decision, so that its steps need not hand them around."""

    def __init__(
        self, state: MeshState, client: Workload, original: HostPort, ip: IPAddress, draw: Draw
    ) -> None:
        self._state = state
        self._client = client
        self._original = original
        self._ip = ip
        self._draw = draw

    def to_service(self, service: Service, *, hidden: bool) -> Route:
        """``hidden``: a workload has the same address, then the service's waypoint has no say."""
        weighted = choose_waypoint(service.weighted_waypoints, self._draw)
        waypoint = weighted.destination if weighted else service.waypoint
        if waypoint is not None and not hidden:
            return self._to_waypoint(waypoint, service, f"waypoint of service {service.key}")
        if service.load_balancing.mode is Mode.PASSTHROUGH:
            return self.passthrough(f"service {service.key} asks for passthrough", service)
        found = candidates(service, self._state.endpoints(service), self._original.port)
        chosen = choose(found, service.load_balancing, self._client, self._draw)
        if chosen is None:
            raise _UnroutableError(
                f"no healthy upstream: {self._original}",
                f"does service {service.key} have ready endpoints for port {self._original.port}?",
            )
        return self._to_endpoint(chosen, service)

    def to_workload(self, workload: Workload) -> Route:
        if workload.waypoint is not None and not self._is_own_waypoint(workload.waypoint):
            return self._to_waypoint(
                workload.waypoint, None, f"waypoint of workload {workload.uid}"
            )
        return self._to_endpoint(Candidate(workload, self._original.port), None)

    def passthrough(self, reason: str, service: Service | None = None) -> Route:
        return Route(protocol=Protocol.TCP, target=self._original, service=service, reason=reason)

    def _to_endpoint(self, chosen: Candidate, service: Service | None) -> Route:
        workload, port = chosen
        if workload.network != self._client.network:
            raise _crosses_networks(workload)
        ip = self._pick_ip(workload, service)
        target = HostPort(str(ip), port)
        of = f"endpoint {workload.uid} of service {service.key}" if service else workload.uid
        if workload.tunnel_protocol is TunnelProtocol.HBONE:
            return Route(
                protocol=Protocol.HBONE,
                target=HostPort(str(ip), HBONE_PORT),
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
        chosen, owner = self._resolve_waypoint(at)
        workload, port = chosen
        if workload.network != self._client.network:
            raise _crosses_networks(workload)
        asked = at.destination.ip if isinstance(at.destination, NetworkAddress) else None
        ip = asked if asked in workload.addresses else self._pick_ip(workload, owner)
        return Route(
            protocol=Protocol.HBONE,
            target=HostPort(str(ip), port),
            authority=str(self._original),
            identities=_identities(owner) | {workload.identity},
            service=service,
            workload=workload,
            via_waypoint=True,
            reason=why,
        )

    def _resolve_waypoint(self, at: GatewayAddress) -> tuple[Candidate, Service | None]:
        """The waypoint's pod and port, and the service that it belongs to (if any)."""
        service, workload = find_gateway(self._state, at)
        if service is not None:
            found = candidates(
                service, self._state.endpoints(service), at.hbone_mtls_port, any_port=True
            )
            chosen = choose(found, service.load_balancing, self._client, self._draw)
            if chosen is None:
                raise _UnroutableError(
                    f"no healthy upstream: waypoint {service.key}:{at.hbone_mtls_port}",
                    "is the waypoint's pod ready?",
                )
            return chosen, service
        if workload is None:
            raise _UnroutableError(
                f"unknown waypoint: {_spell(at.destination)}",
                "apply the waypoint again, or remove the istio.io/use-waypoint label",
            )
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

    def _pick_ip(self, workload: Workload, service: Service | None) -> IPAddress:
        """The address asked for, else one of a family that the service has and the client used."""
        if self._ip in workload.addresses:
            return self._ip
        families = service.ip_families if service else IPFamilies.AUTOMATIC
        usable = [
            ip
            for ip in workload.addresses
            if not (families is IPFamilies.IPV4_ONLY and ip.version == 6)
            and not (families is IPFamilies.IPV6_ONLY and ip.version == 4)
        ]
        same = [ip for ip in usable if ip.version == self._ip.version]
        if not usable:
            raise _UnroutableError(
                f"workload {workload.uid} has no address to send to",
                "give the WorkloadEntry or ServiceEntry endpoint an IP address",
            )
        return (same or usable)[0]


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


def _crosses_networks(workload: Workload) -> _UnroutableError:
    return _UnroutableError(
        f"workload {workload.uid} is in another network ({workload.network!r})",
        "connections across networks are not supported",
    )


def _spell(destination: NamespacedHostname | NetworkAddress) -> str:
    if isinstance(destination, NetworkAddress):
        return f"{destination.network}/{destination.ip}"
    return str(destination)
