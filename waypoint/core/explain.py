"""What would happen to a request, and why: the waypoint's part of ``ambientctl why``.

Nothing here decides: it runs the same functions as live traffic and reports their evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress
from ambient.api.config import ConfigObject
from ambient.api.spiffe import Identity
from waypoint.core.authz import Verdict, near_misses
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Refusal, Self, dispatch
from waypoint.core.message import Headers, Peer, Reply, Request
from waypoint.core.objects import Problem
from waypoint.core.path import normalise_target
from waypoint.core.place import Place
from waypoint.core.plan import plan, resolve
from waypoint.core.program import Program
from waypoint.core.routes import Forward, Route


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A hypothetical request. ``authority`` is what the client calls: VIP:port, podIP:port or
    hostname:port; ``host`` is its Host header and defaults to that."""

    source: Identity | None
    source_ip: IPAddress
    authority: str
    method: str = "GET"
    target: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    network: str = ""


class Share(NamedTuple):
    """A backend's part of the traffic (0 to 1) and its endpoints, as ``name ip:port``.

    ``problem`` is the answer that this share gets where it leads nowhere.
    """

    backend: str
    share: float
    endpoints: tuple[str, ...]
    problem: Reply | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome and its evidence.

    ``refusal`` is set where the waypoint does not serve the destination at all; then nothing else
    is known. ``status`` is what the client gets without asking the application, 0 where the
    application answers.
    """

    allowed: bool
    refusal: str = ""
    verdict: Verdict | None = None
    route: str = ""
    route_source: str = ""
    status: int = 0
    shares: tuple[Share, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def explain(
    objects: Iterable[ConfigObject], directory: Directory, own: Self, facts: RequestFacts
) -> Explanation:
    """Route and judge a hypothetical request under this configuration."""
    return explain_with(Program(own.place).changed(objects), directory, own, facts)


def explain_with(
    program: Program, directory: Directory, own: Self, facts: RequestFacts
) -> Explanation:
    """As ``explain``, with a program that is compiled already."""
    to = dispatch(facts.authority, directory, own, facts.network)
    if isinstance(to, Refusal):
        return Explanation(allowed=False, refusal=to.reason, status=to.status)
    target = normalise_target(facts.target)
    if target is None:
        return Explanation(allowed=False, refusal="the path cannot be normalised", status=400)
    request = Request(
        method=facts.method,
        target=target,
        authority=facts.host or facts.authority,
        headers=Headers((name.lower(), value) for name, value in facts.headers),
        peer=Peer(facts.source, facts.source_ip),
        local=to.address,
    )
    policies = program.policies(to.service)
    notes = [
        f"{miss.effect} {miss.policy} rule {miss.rule} does not match: {miss.field}"
        for miss in near_misses(policies, request)
    ]
    if to.service is not None:
        misses = program.table(to.service, to.address.port).misses(request)
        notes += [f"{miss.route.source} does not apply: {miss.field}" for miss in misses]
    decided = plan(request, program, directory, to, _first)
    route = decided.route
    notes += [f"dry-run {key} would deny" for key in decided.verdict.dry_run_denials]
    shares: tuple[Share, ...] = ()
    status = decided.reply.status if decided.reply is not None else 0
    if to.workload is not None:
        pod = to.workload
        shares = (Share("direct", 1.0, (_endpoint(pod.name, to.address),)),)
    elif decided.verdict.allowed and route is not None and isinstance(route.action, Forward):
        status = 0
        for backend in route.action.backends:
            upstream = resolve(backend, program, directory, to)
            part = route.action.share(backend)
            if isinstance(upstream, Reply):
                shares += (Share(str(backend), part, (), upstream),)
            else:
                found = tuple(_endpoint(t.workload.name, t.address) for t in upstream.targets)
                shares += (Share(str(backend), part, found),)
    return Explanation(
        allowed=decided.verdict.allowed,
        verdict=decided.verdict,
        route=_name(route),
        route_source=route.source if route is not None else "",
        status=status,
        shares=shares if decided.verdict.allowed else (),
        notes=tuple(notes),
        problems=program.problems,
    )


def own_names(place: Place, addresses: Iterable[NetworkAddress] = ()) -> Self:
    """The names of a waypoint, for ``explain``."""
    return Self(place, frozenset(addresses))


def _first() -> float:
    return 0.0


def _name(route: Route | None) -> str:
    return "" if route is None else route.name or route.source


def _endpoint(name: str, address: HostPort) -> str:
    return f"{name} {address}"
