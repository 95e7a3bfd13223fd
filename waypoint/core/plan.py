"""What to do with a request: refuse, answer, or forward. Carries the evidence for its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from ambient.api.service import Service
from ambient.api.workload import Workload
from waypoint.core.admission import admitted
from waypoint.core.authz import Verdict, decide
from waypoint.core.balance import Draw, Target, candidates
from waypoint.core.destination_rule import Balancing
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination, Self
from waypoint.core.filters import Filter, Redirect
from waypoint.core.local_reply import NO_ROUTE, denied, unknown_cluster
from waypoint.core.message import Peer, Reply, Request, Response
from waypoint.core.program import Program
from waypoint.core.routes import Backend, DirectResponse, Forward, Route

DIRECT = "direct"
"""Name of the one route of a pod's own address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where the request goes: the endpoints to choose from."""

    backend: Backend
    service: Service | None
    port: int
    targets: tuple[Target, ...]
    balancing: Balancing

    @property
    def cluster(self) -> str:
        """The name in logs, in Istio's form."""
        host = self.service.hostname if self.service else DIRECT
        return f"inbound-vip|{self.port}|http/{self.backend.subset}|{host}".replace("/|", "|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision about one request. Exactly one of ``reply`` and ``upstream`` is set.

    ``filters`` are those that the request has passed; the response passes them backwards.
    """

    verdict: Verdict
    route: Route | None
    reply: Reply | None = None
    upstream: Upstream | None = None
    filters: tuple[Filter, ...] = ()

    def edit(self, response: Response) -> None:
        """Let the response pass the filters."""
        for item in reversed(self.filters):
            item.on_response(response)


def plan(
    request: Request,
    program: Program,
    directory: Directory,
    to: Destination,
    draw: Draw,
    own: Self | None = None,
) -> Plan:
    """Judge, route and edit a request (in place); ``own`` are the waypoint's names."""
    decided = _route(request, program, directory, to, draw)
    if own is not None and decided.upstream is not None:
        return guard(decided, directory, request.peer, own)
    return decided


def guard(decided: Plan, directory: Directory, peer: Peer, own: Self) -> Plan:
    """The plan without the endpoints that refuse the client; a refusal if none is left."""
    assert decided.upstream is not None
    found = admitted(decided.upstream.targets, directory, peer, own)
    if isinstance(found, Verdict):
        verdict = msgspec.structs.replace(found, dry_run_denials=decided.verdict.dry_run_denials)
        return Plan(verdict=verdict, route=decided.route, reply=denied(found.detail))
    return replace(decided, upstream=replace(decided.upstream, targets=found))


def _route(
    request: Request, program: Program, directory: Directory, to: Destination, draw: Draw
) -> Plan:
    verdict = decide(program.policies(to.service), request)
    if to.service is None:
        route: Route | None = None
    else:
        route = program.table(to.service, to.address.port).select(request)
    if not verdict.allowed:
        return Plan(verdict=verdict, route=route, reply=denied(verdict.detail))
    if to.workload is not None:
        return Plan(verdict=verdict, route=None, upstream=direct(to.workload, to))
    if route is None:
        return Plan(verdict=verdict, route=None, reply=NO_ROUTE)
    match route.action:
        case DirectResponse(reply):
            return Plan(verdict=verdict, route=route, reply=reply, filters=route.filters)
        case Redirect() as redirect:
            reply = redirect.reply(request)
            return Plan(verdict=verdict, route=route, reply=reply, filters=route.filters)
        case Forward() as forward:
            backend = forward.choose(draw())
    filters = (*route.filters, *backend.filters)
    for item in filters:
        item.on_request(request)
    upstream = resolve(backend, program, directory, to)
    if isinstance(upstream, Reply):
        return Plan(verdict=verdict, route=route, reply=upstream, filters=filters)
    return Plan(verdict=verdict, route=route, upstream=upstream, filters=filters)


def resolve(
    backend: Backend, program: Program, directory: Directory, to: Destination
) -> Upstream | Reply:
    """The endpoints of a backend, or the answer where it leads nowhere."""
    if backend.invalid is not None:
        return backend.invalid
    service = directory.service(backend.service) or directory.service_by_hostname(
        backend.service.hostname, program.place.namespace
    )
    if service is None:
        return unknown_cluster(backend.missing_status)
    traffic = program.traffic(service.key)
    subset = traffic.subsets.get(backend.subset) if backend.subset else None
    if backend.subset and subset is None:
        return unknown_cluster(backend.missing_status)
    port = backend.port
    if port is None:
        port = service.ports[0].service_port if len(service.ports) == 1 else to.address.port
    if all(known.service_port != port for known in service.ports):
        return unknown_cluster(backend.missing_status)
    return Upstream(
        backend=backend,
        service=service,
        port=port,
        targets=candidates(directory, service, port, subset),
        balancing=(subset and subset.balancing) or traffic.balancing,
    )


def direct(workload: Workload, to: Destination) -> Upstream:
    """The upstream of a pod's own address: that pod, that port."""
    key = to.key
    return Upstream(
        backend=Backend(service=key, port=to.address.port),
        service=None,
        port=to.address.port,
        targets=(Target(workload, to.address),),
        balancing=Balancing.RANDOM,
    )
