"""The walk of a hypothetical connection through the mesh: one pure function, hop by hop.

It asks the same functions that the node tunnels and waypoints ask, so its answer is theirs.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple, NoReturn

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol, Workload
from ambientctl.why.mesh import Mesh
from ambientctl.why.parties import Source, Target
from ambientctl.why.remedy import flip_l4, flip_l7
from waypoint.core.authz import near_misses
from waypoint.core.dispatch import Destination, Protocol, Refusal, Self, dispatch
from waypoint.core.message import Headers, Peer, Request
from waypoint.core.place import Place
from waypoint.core.plan import Upstream, plan
from ztunnel.core import admit
from ztunnel.core.balance import candidates, choose
from ztunnel.core.route import NoRoute, Route, route
from ztunnel.core.route import Protocol as Hop1Protocol


class Http(NamedTuple):
    """The request inside the connection, for hops that look into it."""

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One step: where, what happens there, and whether the connection passes."""

    at: str
    what: str
    passes: bool = True
    by: str = ""
    """The object that decided, ``Kind namespace/name``, where one did."""


class Walk(msgspec.Struct, kw_only=True):
    """The whole answer."""

    source: str
    destination: str
    hops: list[Hop]
    allowed: bool = True
    decided_by: str = ""
    change: str = ""
    """The smallest change that would let it pass; empty where it passes."""


class _EndedError(Exception):
    """The walk is over; never leaves this module."""


def walk(mesh: Mesh, source: Source, target: Target, http: Http) -> Walk:
    """Follow a connection from ``source`` to ``target``."""
    answer = Walk(source=source.label, destination=f"{target.label} ({target.address})", hops=[])
    try:
        _Walker(mesh, source, target, http, answer).go()
    except _EndedError:
        answer.allowed = False
    return answer


class _Walker:
    def __init__(
        self, mesh: Mesh, source: Source, target: Target, http: Http, answer: Walk
    ) -> None:
        self.mesh = mesh
        self.source = source
        self.target = target
        self.http = http
        self.answer = answer

    def go(self) -> None:
        if not self.source.captured:
            self.step("source", _why_not_captured(self.source))
            self.deliver_plaintext(*self.balance_outside())
            return
        identity = self.source.workload.identity
        self.step("source", f"captured by the node tunnel, which speaks as {identity}")
        decided = route(self.mesh.state, self.source.workload, self.target.address, _first)
        match decided:
            case NoRoute(reason=reason, hint=hint):
                self.stop("source tunnel", reason, change=hint)
            case Route(via_waypoint=True) as found:
                self.step("source tunnel", f"HBONE to {found.target}, {found.reason}")
                self.through_waypoint(found, identity)
            case Route(protocol=Hop1Protocol.HBONE) as found:
                self.step("source tunnel", f"HBONE to {found.target}: {found.reason}")
                assert found.workload is not None
                self.deliver_tunnelled(found.workload, found.authority, identity, self.source.ip)
            case Route() as found:
                self.step("source tunnel", f"plaintext to {found.target}: {found.reason}")
                self.deliver_plaintext(found.workload, found.target)

    def balance_outside(self) -> tuple[Workload | None, HostPort]:
        """What kube-proxy would choose for a client outside the mesh."""
        service, address = self.target.service, self.target.address
        if service is None:
            ip = ip_address(address.host)
            return self.mesh.state.workload_by_address(NetworkAddress("", ip)), address
        found = candidates(service, self.mesh.state.endpoints(service), address.port)
        chosen = choose(found, service.load_balancing, self.source.workload, _first)
        if chosen is None:
            self.stop(
                "node",
                f"no healthy endpoint of {service.key} has port {address.port}",
                change="make one of its pods ready",
            )
        at = HostPort(str(chosen.workload.addresses[0]), chosen.port)
        self.step("node", f"service address to {chosen.workload.name} at {at}, past any waypoint")
        return chosen.workload, at

    def through_waypoint(self, found: Route, identity: Identity) -> None:
        waypoint = found.workload
        assert waypoint is not None
        place = Place(namespace=waypoint.namespace, gateway=waypoint.canonical_name)
        at = f"waypoint {place.namespace}/{place.gateway}"
        addresses = frozenset(NetworkAddress(waypoint.network, ip) for ip in waypoint.addresses)
        own = Self(place, addresses)
        to = dispatch(found.authority, self.mesh.state, own, waypoint.network)
        if isinstance(to, Refusal):
            self.stop(at, f"{to.status}: {to.reason}")
        if to.protocol is Protocol.TCP:
            self.step(at, "relayed as raw TCP")
        upstream = self.ask_waypoint(at, place, to, identity)
        workload, address = upstream.targets[0]
        if workload.tunnel_protocol is TunnelProtocol.HBONE:
            self.step(at, f"HBONE to {workload.name} ({address}) as {waypoint.identity}")
            ip = waypoint.addresses[0]
            self.deliver_tunnelled(workload, str(address), waypoint.identity, ip)
        else:
            self.step(at, f"plaintext to {workload.name} ({address})")
            self.deliver_plaintext(workload, address)

    def ask_waypoint(self, at: str, place: Place, to: Destination, identity: Identity) -> Upstream:
        """Policy and routes of the waypoint for the request; ends the walk on a reply."""
        program = self.mesh.program(place)
        service = to.service
        request = Request(
            method=self.http.method,
            target=self.http.path,
            authority=service.hostname if service else to.address.host,
            headers=Headers(self.http.headers),
            peer=Peer(identity, self.source.ip),
            local=to.address,
        )
        shown = f"{self.http.method} {self.http.path}"
        decided = plan(request, program, self.mesh.state, to, _first)
        verdict = decided.verdict
        by = f"AuthorizationPolicy {verdict.by.policy}" if verdict.by else ""
        if not verdict.allowed:
            misses = near_misses(program.policies(service), request)
            rule = f", rule {verdict.by.rule}" if verdict.by else ""
            change = flip_l7(verdict, misses)
            self.stop(at, f"{shown}: 403, {verdict.reason}{rule}", by=by, change=change)
        self.step(at, f"{shown}: {verdict.reason}", by=by)
        if decided.upstream is None:
            reply = decided.reply
            status = reply.status if reply else 503
            details = reply.details if reply else ""
            self.stop(at, f"{shown}: answered with {status} {details}".rstrip())
        if decided.route is not None and decided.route.source != "default":
            chosen = decided.upstream.backend
            subset = f" subset {chosen.subset}" if chosen.subset else ""
            told = f"route {decided.route.name} to {chosen.service.hostname}{subset}"
            self.step(at, told, by=decided.route.source)
        if not decided.upstream.targets:
            change = "make a pod of the route's destination ready"
            self.stop(at, f"{shown}: 503, no healthy upstream", change=change)
        return decided.upstream

    def deliver_tunnelled(
        self, workload: Workload, authority: str, identity: Identity, ip: IPAddress
    ) -> None:
        at = f"tunnel of {workload.namespace}/{workload.name}"
        caller = admit.Caller(identity=identity, ip=ip, authority=authority)
        host = authority.rpartition(":")[0].strip("[]")
        local = HostPort(host, 15008)
        self.settle(at, workload, admit.admit_connect(self.mesh.state, workload, caller, local))

    def deliver_plaintext(self, workload: Workload | None, address: HostPort) -> None:
        if workload is None or workload.tunnel_protocol is not TunnelProtocol.HBONE:
            self.step("destination", f"{address} is outside the mesh: nobody checks")
            return
        at = f"tunnel of {workload.namespace}/{workload.name}"
        self.step(at, "plaintext: nobody has proven who calls")
        decided = admit.admit_plaintext(self.mesh.state, workload, self.source.ip, address)
        self.settle(at, workload, decided)

    def settle(self, at: str, workload: Workload, decided: admit.Permit | admit.Denial) -> None:
        verdict = decided.verdict
        policy = verdict.policy if verdict else ""
        by = f"policy {policy}" if policy else ""
        if isinstance(decided, admit.Permit):
            self.step(at, f"to the application at {decided.upstream}: {decided.verdict.reason}", by)
            return
        change = flip_l4(self.mesh.state, workload, decided)
        self.stop(at, f"refused: {decided.reason}", by=by, change=change)

    def step(self, at: str, what: str, by: str = "") -> None:
        self.answer.hops.append(Hop(at=at, what=what, by=by))
        if by:
            self.answer.decided_by = by

    def stop(self, at: str, what: str, *, by: str = "", change: str = "") -> NoReturn:
        self.answer.hops.append(Hop(at=at, what=what, passes=False, by=by))
        self.answer.decided_by, self.answer.change = by, change
        raise _EndedError


def _first() -> float:
    """The draw: always the first of several endpoints, so that the answer is repeatable."""
    return 0.0


def _why_not_captured(source: Source) -> str:
    if source.hypothetical:
        return "not in the mesh: plaintext"
    return "not in the mesh (its tunnel does not capture it): plaintext"
