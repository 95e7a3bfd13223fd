"""What would happen to a request, and why: the waypoint's part of ``ambientctl why``.

Nothing here decides: it runs the same functions as live traffic and reports their evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from ambient.api.address import IPAddress
from ambient.api.spiffe import Identity
from waypoint.core.admission import admitted
from waypoint.core.authenticate import accept, judge, refusal
from waypoint.core.authz import NearMiss, Question, Verdict, decide, near_misses, questions
from waypoint.core.balance import Draw
from waypoint.core.decision import Plan
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination, Protocol, Refusal, Self, dispatch
from waypoint.core.host import Target
from waypoint.core.json_web_token import FETCH_FAILED
from waypoint.core.message import Headers, Peer, Reply, Request
from waypoint.core.path import normalise_target
from waypoint.core.plan import plan, resolve
from waypoint.core.program import Program
from waypoint.core.routes import Forward, Route

BEFORE_ROUTING: Final = ("fault_filter_abort", "cors_response")
"""Details of answers that are given whatever the route's backends are."""


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A hypothetical request. ``authority`` is what the client calls: VIP:port, podIP:port or
    hostname:port; ``host`` is its Host header and defaults to that. ``at_s`` is when (Unix time):
    tokens end.
    """

    source: Identity | None
    source_ip: IPAddress
    authority: str
    method: str = "GET"
    target: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    network: str = ""
    at_s: float = 0.0


class Share(NamedTuple):
    """A backend's part of the traffic (0 to 1) and its endpoints.

    ``problem`` is the answer that this share gets where it leads nowhere.
    """

    backend: str
    share: float
    targets: tuple[Target, ...]
    problem: Reply | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome and its evidence. ``raw``: judged and relayed as a connection, not as HTTP.

    ``refusal`` is set where the waypoint does not serve the destination at all, or a token is not
    good; then nothing else is known. ``status`` is what the client gets without asking the
    application, 0 where the application answers.
    """

    allowed: bool
    refusal: str = ""
    verdict: Verdict | None = None
    route: str = ""
    route_source: str = ""
    status: int = 0
    shares: tuple[Share, ...] = ()
    misses: tuple[NearMiss, ...] = ()
    """Rules that were asked and did not match."""
    notes: tuple[str, ...] = ()
    raw: bool = False


def explain(program: Program, directory: Directory, own: Self, facts: RequestFacts) -> Explanation:
    """Route and judge a hypothetical request under this configuration."""
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
    if to.protocol is Protocol.TCP:
        return _explain_raw(program, directory, to, request, own)
    token = _authenticated(program, to, request, facts.at_s)
    if isinstance(token, Reply):
        return Explanation(allowed=False, refusal=token.body, status=token.status)
    misses = near_misses(program.policies(to.service), request)
    notes = [token] if token else []
    if to.service is not None:
        passed_over = program.table(to.service, to.address.port).misses(request)
        notes += [f"{miss.route.source} does not apply: {miss.field}" for miss in passed_over]
    asked = questions(program.policies(to.service), request)
    decided = plan(request, program, directory, to, _draws(), own)
    notes += _injected(decided.route)
    notes += [f"dry-run {key} would deny" for key in decided.verdict.dry_run_denials]
    notes += _asked_before(asked)
    if decided.route is not None and decided.verdict.allowed:
        notes += [f"the route asks {one.at} first" for one in decided.route.authorizers]
    allowed = decided.verdict.allowed
    answered = decided.reply is not None and decided.reply.details in BEFORE_ROUTING
    shares: tuple[Share, ...] = ()
    if allowed and not answered:
        shares = _shares(program, directory, to, decided, request.peer, own)
    status = 0 if shares or decided.reply is None else decided.reply.status
    return Explanation(
        allowed=decided.verdict.allowed,
        verdict=decided.verdict,
        route=_name(decided.route),
        route_source=decided.route.source if decided.route is not None else "",
        status=status,
        shares=shares,
        misses=misses,
        notes=tuple(notes),
    )


def _authenticated(program: Program, to: Destination, request: Request, at_s: float) -> Reply | str:
    """Verify the request's token with the keys that the configuration has, and mark its claims.

    The refusal, or a note about what could not be verified here; empty where all is known.
    """
    rules = program.guards.authentication(to.service)
    judged = judge(rules, request, lambda _source: None, at_s)
    if judged.error == FETCH_FAILED:
        return "the token is verified with keys that only the waypoint has; here it proves nothing"
    if judged.error:
        return refusal(judged.error, request)
    accept(rules, judged, request)
    issuers = sorted({rule.issuer for rule in rules.providers})
    if issuers and judged.provider is None:
        return f"tokens of {', '.join(issuers)} are verified; this request carries none"
    return ""


def _asked_before(asked: tuple[Question, ...]) -> Iterator[str]:
    """What a live request has to pass first, and nobody can say here."""
    for one in asked:
        how = "its answer only counts (dry run)" if one.dry_run else "which may refuse"
        yield f"{one.by.policy} asks the authorizer {one.provider} first, {how}"


def _explain_raw(
    program: Program, directory: Directory, to: Destination, request: Request, own: Self
) -> Explanation:
    """A connection that is not HTTP: judged once by what is known without reading it."""
    verdict = decide(program.policies(to.service), request, http=False)
    route: Route | None = None
    shares: tuple[Share, ...] = ()
    notes: list[str] = []
    if to.service is not None and verdict.allowed:
        streams = program.streams(to.service, to.address.port)
        host, port = to.service.hostname, to.address.port
        notes += [
            f"{stream.source} applies to some server names only"
            for stream in streams
            if stream.needs_sni(host, port)
        ]
        route = program.stream_route(to.service, port, "", request.peer)
        judged = Plan(verdict=verdict, route=route)
        shares = _shares(program, directory, to, judged, request.peer, own)
        verdict = _refusal(program, directory, to, route, request.peer, own) or verdict
    return Explanation(
        allowed=verdict.allowed,
        verdict=verdict,
        route="" if route is None or route.source == "default" else _name(route),
        route_source=route.source if route is not None else "",
        shares=shares if verdict.allowed else (),
        notes=tuple(notes),
        raw=True,
    )


def _refusal(
    program: Program, directory: Directory, to: Destination, route: Route, peer: Peer, own: Self
) -> Verdict | None:
    """The refusal of endpoints that do not admit the client, where no backend is left to it."""
    if not isinstance(route.action, Forward):
        return None
    refusal: Verdict | None = None
    for backend in route.action.backends:
        upstream = resolve(backend, program, directory, to)
        if isinstance(upstream, Reply):
            return None
        found = admitted(upstream.targets, directory, peer, own)
        if not isinstance(found, Verdict):
            return None
        refusal = found
    return refusal


def _shares(
    program: Program, directory: Directory, to: Destination, decided: Plan, peer: Peer, own: Self
) -> tuple[Share, ...]:
    """All backends that the request may go to; empty where it is answered here."""
    if to.workload is not None:
        return (Share("direct", 1.0, (Target(to.workload, to.address),)),)
    if decided.route is None or not isinstance(decided.route.action, Forward):
        return ()
    action = decided.route.action
    found: list[Share] = []
    for backend in action.backends:
        upstream = resolve(backend, program, directory, to)
        part = action.share(backend)
        if isinstance(upstream, Reply):
            found.append(Share(str(backend), part, (), upstream))
        else:
            targets = admitted(upstream.targets, directory, peer, own)
            usable = () if isinstance(targets, Verdict) else targets
            found.append(Share(str(backend), part, usable))
    return tuple(found)


def _draws() -> Draw:
    """Chance, as far as it can be told: a fault happens only where it always does."""
    return lambda: 1 - 2**-53


def _injected(route: Route | None) -> list[str]:
    """Faults and copies, which an outcome does not show."""
    if route is None:
        return []
    found: list[str] = []
    fault = route.fault
    if fault is not None and fault.delay_share:
        found.append(f"{fault.delay_share:.4%} of requests are delayed by {fault.delay_s:g} s")
    if fault is not None and fault.abort is not None and fault.abort_share:
        found.append(f"{fault.abort_share:.4%} of requests are answered {fault.abort.status}")
    for mirror in route.mirrors:
        found.append(f"{mirror.share:.4%} of requests are copied to {mirror.backend}")
    return found


def _name(route: Route | None) -> str:
    return "" if route is None else route.name or route.source
