"""What to do with a request: refuse, answer, or forward. Carries the evidence for its answer."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ambient.api.address import NetworkAddress
from ambient.api.workload import Workload
from waypoint.core.admission import admitted, guarded
from waypoint.core.authz import Verdict, decide
from waypoint.core.balance import Draw
from waypoint.core.decision import Plan, Upstream
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination, Self
from waypoint.core.fault import Fault
from waypoint.core.filters import Filter, HeaderFilter, Redirect
from waypoint.core.host import Target
from waypoint.core.load_balancer import Balancing
from waypoint.core.local_reply import NO_ROUTE, denied, unknown_cluster
from waypoint.core.message import Peer, Reply, Request
from waypoint.core.program import FilterChain, Program
from waypoint.core.routes import Backend, DirectResponse, Forward, Route
from waypoint.core.session import Visit

Filters = tuple[Filter, ...]
NOT_RESOLVED = (-1, None, None)


def plan(
    request: Request,
    program: Program,
    directory: Directory,
    to: Destination,
    draw: Draw,
    own: Self | None = None,
) -> Plan:
    """Judge, route and edit a request (in place); ``own`` are the waypoint's names."""
    chain = program.chain(to)
    verdict = decide(chain.policies, request)
    route = chain.routes.select(request) if chain.routes is not None else None
    if not verdict.allowed:
        return _refused(verdict, route, denied(verdict.detail), request, draw)
    if to.workload is not None:
        decided = Plan(verdict=verdict, route=None, upstream=direct(to.workload, to))
    elif route is None:
        return Plan(verdict=verdict, route=None, reply=NO_ROUTE)
    else:
        decided = Plan(verdict=verdict, route=route)
        if route.fault is not None:
            decided = _faulted(decided, route.fault, request, draw)
        if decided.reply is None:
            decided = _follow(decided, route, request, Places(program, directory, to), draw)
    upstream = decided.upstream
    if own is not None and upstream is not None and (upstream.guarded or decided.mirrors):
        return guard(decided, directory, request.peer, own)
    return decided


def refused(chain: FilterChain, reply: Reply, request: Request, draw: Draw) -> Plan:
    """Of a request that was refused before anybody judged it, with the route that it would have
    taken: that has a say in the reply's fields (Envoy)."""
    route = chain.routes.select(request) if chain.routes is not None else None
    return _refused(Verdict(allowed=True, reason="not judged"), route, reply, request, draw)


def _refused(
    verdict: Verdict, route: Route | None, reply: Reply, request: Request, draw: Draw
) -> Plan:
    filters = () if route is None else _response_filters(route, request, draw)
    return Plan(verdict=verdict, route=route, reply=reply, filters=filters)


def _response_filters(route: Route, request: Request, draw: Draw) -> tuple[Filter, ...]:
    """What edits replies of our own where the route would have forwarded."""
    if not isinstance(route.action, Forward):
        return ()
    backend = route.action.choose(draw())
    first, then = _groups(route, backend, request)
    return (*then, *first)


def _mirrored(decided: Plan, route: Route, places: Places, draw: Draw) -> Plan:
    """The plan with the copies that chance wants."""
    found = tuple(
        upstream
        for mirror in route.mirrors
        if draw() < mirror.share
        and isinstance(upstream := resolve(mirror.backend, *places), Upstream)
    )
    return replace(decided, mirrors=found)


def guard(decided: Plan, directory: Directory, peer: Peer, own: Self) -> Plan:
    """The plan without the endpoints that refuse the client; a refusal if none is left."""
    assert decided.upstream is not None
    if decided.mirrors:
        copies = (_guarded(mirror, directory, peer, own) for mirror in decided.mirrors)
        decided = replace(decided, mirrors=tuple(one for one in copies if one is not None))
    assert decided.upstream is not None
    found = admitted(decided.upstream.targets, directory, peer, own)
    if isinstance(found, Verdict):
        verdict = msgspec.structs.replace(found, dry_runs=decided.verdict.dry_runs)
        return Plan(verdict=verdict, route=decided.route, reply=denied(found.detail))
    if found is decided.upstream.targets:
        return decided
    allowed = frozenset(target.key for target in found)
    return replace(decided, upstream=replace(decided.upstream, allowed=allowed))


def _guarded(mirror: Upstream, directory: Directory, peer: Peer, own: Self) -> Upstream | None:
    found = admitted(mirror.targets, directory, peer, own)
    if isinstance(found, Verdict):
        return None
    return replace(mirror, allowed=frozenset(target.key for target in found))


class Places(NamedTuple):
    """Where backends are looked up."""

    program: Program
    directory: Directory
    to: Destination


def _faulted(decided: Plan, fault: Fault, request: Request, draw: Draw) -> Plan:
    assert decided.route is not None
    delay_s, reply = fault.delay_for(draw()), fault.abort_for(draw())
    filters = () if reply is None else _response_filters(decided.route, request, draw)
    return replace(decided, delay_s=delay_s, reply=reply, filters=filters)


def _follow(decided: Plan, route: Route, request: Request, places: Places, draw: Draw) -> Plan:
    """What the route says about a request that no fault has ended."""
    cors: Filters = ()
    if route.cors is not None:
        reply = route.cors.answer(request)
        if reply is not None:
            return replace(decided, reply=reply)
        admission = route.cors.admission(request)
        cors = () if admission is None else (admission,)
    filters = (*cors, *route.filters)
    action = route.action
    if isinstance(action, DirectResponse):
        return replace(decided, reply=action.reply, filters=filters)
    if isinstance(action, Redirect):
        return replace(decided, reply=action.reply(request), filters=filters)
    session = route.session
    visit = session.visit(request, request.at_s) if session is not None else None
    backend = _visited(action, visit, places) if visit is not None else None
    if backend is None:
        backend = action.choose(draw())
    if route.filters or backend.filters:
        first, then = _groups(route, backend, request)
        _edit(request, first, then, several=len(action.backends) > 1)
        filters = (*cors, *then, *first)
    upstream = resolve(backend, places.program, places.directory, places.to)
    if isinstance(upstream, Reply):
        return replace(decided, reply=upstream, filters=filters)
    if session is None and upstream.settings.session is not None:
        session = upstream.settings.session
        visit = session.visit(request, request.at_s)
    decided = Plan(
        verdict=decided.verdict,
        route=route,
        upstream=upstream,
        filters=filters,
        delay_s=decided.delay_s,
        session=session,
        visit=visit,
    )
    return _mirrored(decided, route, places, draw) if route.mirrors else decided


def _groups(route: Route, backend: Backend, request: Request) -> tuple[Filters, Filters]:
    """The filters of a rule and of its backend, in the order in which they edit headers: of fields
    that both set the backend's stay, unless several share the rule (so istiod has Envoy do it).

    Values that depend on the request are those that it came with.
    """
    assert isinstance(route.action, Forward)
    of_rule = tuple(_bound(item, request) for item in route.filters)
    of_backend = tuple(_bound(item, request) for item in backend.filters)
    return (of_backend, of_rule) if len(route.action.backends) > 1 else (of_rule, of_backend)


def _bound(item: Filter, request: Request) -> Filter:
    return item.for_request(request) if isinstance(item, HeaderFilter) and item.dynamic else item


def _edit(request: Request, first: Filters, then: Filters, *, several: bool) -> None:
    """Let a request pass its filters; the rule's Host counts for more than the backend's."""
    called = request.authority
    for item in first:
        item.on_request(request)
    host = request.authority
    for item in then:
        item.on_request(request)
    if host != called and not several:
        request.authority = host
    if request.authority != called:
        request.headers.set("x-envoy-original-host", called)


def _visited(forward: Forward, visit: Visit, places: Places) -> Backend | None:
    """The backend that has the endpoint of a session."""
    for backend in forward.backends:
        upstream = resolve(backend, *places)
        if isinstance(upstream, Upstream) and any(
            str(target.address) == visit.address for target in upstream.targets
        ):
            return backend
    return None


def resolve(
    backend: Backend, program: Program, directory: Directory, to: Destination
) -> Upstream | Reply:
    """The endpoints of a backend, or the answer where it leads nowhere.

    The same object each time, until the mesh changes.
    """
    key = (id(backend), to.address.port)
    generation, _, found = program.resolved.get(key, NOT_RESOLVED)
    if generation == directory.generation and isinstance(found, Upstream | Reply):
        return found
    fresh = _resolve(backend, program, directory, to)
    if not isinstance(fresh, Upstream) or fresh.settings.balancer.balancing is not (
        Balancing.PASSTHROUGH
    ):
        program.resolved[key] = (directory.generation, backend, fresh)
    return fresh


def _resolve(
    backend: Backend, program: Program, directory: Directory, to: Destination
) -> Upstream | Reply:
    if backend.invalid is not None:
        return backend.invalid
    service = directory.service(backend.service) or directory.service_by_hostname(
        backend.service.hostname, program.place.namespace
    )
    if service is None:
        return unknown_cluster(backend.missing_status)
    if backend.subset and backend.subset not in program.traffic(service.key).subsets:
        return unknown_cluster(backend.missing_status)
    port = backend.port
    if port is None:
        port = service.ports[0].service_port if len(service.ports) == 1 else to.address.port
    if all(known.service_port != port for known in service.ports):
        return unknown_cluster(backend.missing_status)
    settings = program.settings(service, port, backend.subset)
    if settings.balancer.balancing is Balancing.PASSTHROUGH and to.address.ip is not None:
        targets: tuple[Target, ...] = (_as_called(to, directory),)
    else:
        targets = program.endpoints(directory, service, port, backend.subset)
    return Upstream(
        backend=backend,
        service=service,
        port=port,
        targets=targets,
        settings=settings,
        declared=next(p.app_protocol for p in service.ports if p.service_port == port),
        guarded=any(guarded(directory.policies_for(target.workload)) for target in targets),
    )


def _as_called(to: Destination, directory: Directory) -> Target:
    """PASSTHROUGH: the address that the client called, whoever answers there."""
    ip = to.address.ip
    assert ip is not None
    found = directory.workload_by_address(NetworkAddress("", ip))
    if found is None:
        name = str(to.address)
        found = Workload(uid=f"passthrough/{name}", name=name, namespace="", addresses=(ip,))
    return Target(found, to.address)


def direct(workload: Workload, to: Destination) -> Upstream:
    """The upstream of a pod's own address: that pod, that port."""
    return Upstream(
        backend=Backend(service=to.key, port=to.address.port),
        service=None,
        port=to.address.port,
        targets=(Target(workload, to.address),),
    )
