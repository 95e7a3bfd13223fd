"""The walk of a hypothetical connection through the mesh: one pure function, hop by hop.

It asks the same functions that the node tunnels and waypoints ask, so its answer is theirs.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple, NoReturn

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress
from ambient.api.ports import HBONE_PORT
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol, Workload
from ambientctl.why.mesh import Mesh
from ambientctl.why.parties import Source, Target
from ambientctl.why.remedy import flip_l4, flip_l7, refuse_l4, refuse_l7
from ambientctl.why.surroundings import SYSTEM, Note
from waypoint.core.dispatch import Self
from waypoint.core.explain import Explanation, RequestFacts, Share, explain
from waypoint.core.place import Place
from ztunnel.core import admit
from ztunnel.core.balance import candidates, choose
from ztunnel.core.route import INNER_IDENTITY_HINT, NoRoute, Route, no_inner_identity, route
from ztunnel.core.route import Protocol as Hop1Protocol

REFUSE_OUTSIDE = (
    "put the destination into the mesh, or a waypoint in front of its service, then a policy can"
)


class Http(NamedTuple):
    """The request inside the connection, for hops that look into it."""

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    at_s: float = 0.0
    """When (Unix time): tokens end."""

    def host(self, found: Route) -> str:
        """The Host header: given, or the called service's name."""
        given = dict(self.headers).get("host", "")
        return given or (found.service.hostname if found.service else "")


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
    refuse: str = ""
    """The smallest change that would refuse it; empty where it is refused."""
    notes: list[Note] = []
    """What is perhaps not meant: an end outside the mesh, a waypoint that is missing."""


class _EndedError(Exception):
    """The walk is over; never leaves this module."""


def walk(mesh: Mesh, source: Source, target: Target, http: Http) -> Walk:
    """Follow a connection from ``source`` to ``target``."""
    answer = Walk(source=source.label, destination=f"{target.label} ({target.address})", hops=[])
    try:
        _Walker(mesh, source, target, http, answer).go()
    except _EndedError:
        answer.allowed, answer.refuse = False, ""
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
            self.note(self.mesh.around.outside(self.source.workload, SYSTEM))
            self.step("source", _why_not_captured(self.source))
            workload, address = self.balance_outside()
            self.cross(self.source.workload, workload, address.port)
            self.deliver_plaintext(workload, address)
            return
        identity = self.source.workload.identity
        self.step("source", f"captured by the node tunnel, which speaks as {identity}")
        decided = route(self.mesh.state, self.source.workload, self.target.address, _first)
        if isinstance(decided, Route) and not decided.via_waypoint:
            self.note(self.mesh.around.past_waypoint(self.target.service, decided.workload))
        match decided:
            case NoRoute(reason=reason, hint=hint):
                self.stop("source tunnel", reason, change=hint)
            case Route(protocol=Hop1Protocol.DOUBLE_HBONE) as found:
                self.across(found)
            case Route(protocol=Hop1Protocol.HBONE) as found if found.target.ip is None:
                self.step("source tunnel", f"HBONE to {found.target}: {found.reason}")
                self.step("destination", f"{found.target.host} is known by its name only")
            case Route(via_waypoint=True) as found:
                self.step("source tunnel", f"HBONE to {found.target}, {found.reason}")
                self.cross(self.source.workload, found.workload, HBONE_PORT)
                self.through_waypoint(found, identity)
            case Route(protocol=Hop1Protocol.HBONE) as found:
                self.step("source tunnel", f"HBONE to {found.target}: {found.reason}")
                assert found.workload is not None
                self.cross(self.source.workload, found.workload, HBONE_PORT)
                self.deliver_tunnelled(found.workload, found.authority, identity, self.source.ip)
            case Route() as found:
                self.step("source tunnel", f"plaintext to {found.target}: {found.reason}")
                if found.workload is not None:
                    self.note(self.mesh.around.outside(found.workload, SYSTEM))
                self.cross(self.source.workload, found.workload, found.target.port)
                self.deliver_plaintext(found.workload, found.target)

    def across(self, found: Route) -> None:
        """Through another network's gateway; what decides behind it is that network's."""
        what = f"HBONE to {found.target}, and inside it HBONE to {found.authority}: {found.reason}"
        self.step("source tunnel", what)
        if not found.inner_identities:
            self.stop("source tunnel", no_inner_identity(found), change=INNER_IDENTITY_HINT)
        self.step("destination", "in another network: its own mesh decides there")

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
        place = Place(
            namespace=waypoint.namespace,
            gateway=waypoint.canonical_name,
            service_account=waypoint.service_account,
        )
        at = f"waypoint {place.namespace}/{place.gateway}"
        addresses = frozenset(NetworkAddress(waypoint.network, ip) for ip in waypoint.addresses)
        facts = RequestFacts(
            source=identity,
            source_ip=self.source.ip,
            authority=found.authority,
            method=self.http.method,
            target=self.http.path,
            host=self.http.host(found),
            headers=self.http.headers,
            at_s=self.http.at_s,
            network=waypoint.network,
        )
        program = self.mesh.program(place)
        told = explain(program, self.mesh.state, Self(place, addresses), facts)
        self.judge_at_waypoint(at, told)
        share = max(told.shares, key=lambda one: one.share)
        for one in told.shares:
            if len(told.shares) > 1 or told.route_source != "default":
                self.step(at, _share(one), by=told.route_source)
        if not share.targets:
            change = "make a pod of the route's destination ready"
            self.stop(at, f"503, {share.backend} has no healthy endpoint", change=change)
        workload, address = share.targets[0]
        if workload.tunnel_protocol is TunnelProtocol.HBONE:
            self.step(at, f"HBONE to {workload.name} ({address}) as {waypoint.identity}")
            self.cross(waypoint, workload, HBONE_PORT)
            ip = waypoint.addresses[0]
            self.deliver_tunnelled(workload, str(address), waypoint.identity, ip)
        else:
            self.step(at, f"plaintext to {workload.name} ({address})")
            self.cross(waypoint, workload, address.port)
            self.deliver_plaintext(workload, address)

    def judge_at_waypoint(self, at: str, told: Explanation) -> None:
        """Tell the waypoint's verdict; ends the walk unless the request goes on."""
        for text in told.notes:
            self.note(Note(text=text))
        verdict = told.verdict
        if verdict is None:
            self.stop(at, f"{told.status}: {told.refusal}")
        asked = "raw connection" if told.raw else f"{self.http.method} {self.http.path}"
        by = f"AuthorizationPolicy {verdict.by.policy}" if verdict.by else ""
        rule = f", rule {verdict.by.rule + 1}" if verdict.by else ""
        if not verdict.allowed:
            status = "refused" if told.raw else "403"
            change = flip_l7(verdict, told.misses)
            self.stop(at, f"{asked}: {status}, {verdict.reason}{rule}", by=by, change=change)
        self.step(at, f"{asked}: {verdict.reason}{rule}", by=by)
        self.answer.refuse = refuse_l7(verdict, asked)
        if not told.shares:
            self.stop(
                at, f"{asked}: answered with {told.status} by {told.route_source or 'no route'}"
            )

    def deliver_tunnelled(
        self, workload: Workload, authority: str, identity: Identity, ip: IPAddress
    ) -> None:
        at = f"tunnel of {workload.namespace}/{workload.name}"
        caller = admit.Caller(identity=identity, ip=ip, authority=authority)
        host = authority.rpartition(":")[0].strip("[]")
        local = HostPort(host, HBONE_PORT)
        self.settle(at, workload, admit.admit_connect(self.mesh.state, workload, caller, local))

    def cross(self, client: Workload, server: Workload | None, port: int) -> None:
        """Over the cluster's network; ends the walk where NetworkPolicies close the way."""
        found = self.mesh.around.closed(client, server, port)
        if found is not None:
            self.stop("network", found.what, by=found.by, change=found.change)

    def deliver_plaintext(self, workload: Workload | None, address: HostPort) -> None:
        if workload is None or workload.tunnel_protocol is not TunnelProtocol.HBONE:
            self.step("destination", f"{address} is outside the mesh: nobody checks")
            if not self.answer.refuse:
                self.answer.refuse = REFUSE_OUTSIDE
            return
        at = f"tunnel of {workload.namespace}/{workload.name}"
        self.step(at, "plaintext: nobody has proven who calls")
        decided = admit.admit_plaintext(self.mesh.state, workload, self.source.ip, address)
        self.settle(at, workload, decided)

    def settle(self, at: str, workload: Workload, decided: admit.Permit | admit.Denial) -> None:
        verdict = decided.verdict
        by = self.mesh.around.author(workload, verdict.policy) if verdict else ""
        if isinstance(decided, admit.Permit):
            self.step(at, f"to the application at {decided.upstream}: {decided.verdict.reason}", by)
            self.answer.refuse = refuse_l4(self.mesh.state, workload, decided)
            return
        change = flip_l4(self.mesh.state, workload, decided)
        self.stop(at, f"refused: {decided.reason}", by=by, change=change)

    def note(self, found: Note | None) -> None:
        if found is not None:
            self.answer.notes.append(found)

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


def _share(share: Share) -> str:
    if share.problem is not None:
        return f"{share.share:.0%} to {share.backend}: answered with {share.problem.status}"
    names = ", ".join(target.workload.name for target in share.targets) or "no healthy endpoint"
    return f"{share.share:.0%} to {share.backend}: {names}"


def _why_not_captured(source: Source) -> str:
    if source.hypothetical:
        return "not in the mesh: plaintext"
    return "not in the mesh (its tunnel does not capture it): plaintext"
