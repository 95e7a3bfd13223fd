"""Which endpoint of a service takes a connection; the draw is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ambient.api.service import (
    HealthPolicy,
    LoadBalancing,
    Mode,
    Port,
    Scope,
    Service,
    WeightedWaypoint,
)
from ambient.api.workload import Workload, WorkloadStatus
from ambient.state.core.mesh import Endpoint

Draw = Callable[[], float]
"""A number in [0, 1): ``random.random``, or a fixed value in tests."""


class Candidate(NamedTuple):
    """An endpoint that can take the connection, and the port it takes it on."""

    workload: Workload
    port: int


def candidates(
    service: Service, endpoints: Sequence[Endpoint], service_port: int, *, any_port: bool = False
) -> list[Candidate]:
    """The endpoints that are healthy enough, reachable and have the port.

    ``any_port`` lets a workload with an application tunnel take a port that nobody declares.
    """
    all_allowed = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
    found = []
    for workload, ports in endpoints:
        if workload.status is not WorkloadStatus.HEALTHY and not all_allowed:
            continue
        if not (workload.addresses or workload.hostname or workload.network_gateway):
            continue
        port = target_port(service, workload, ports, service_port, any_port=any_port)
        if port:
            found.append(Candidate(workload, port))
    return found


def target_port(
    service: Service,
    workload: Workload,
    ports: Sequence[Port],
    service_port: int,
    *,
    any_port: bool = False,
) -> int:
    """The workload's port behind a service port; 0 where it has none.

    The endpoint's own map wins, because a named port may differ from pod to pod.
    """
    for port in ports:
        if port.service_port == service_port and port.target_port:
            return port.target_port
    for port in service.ports:
        if port.service_port == service_port and port.target_port:
            return port.target_port
    tunnel = workload.application_tunnel
    return service_port if tunnel and (tunnel.port or any_port) else 0


def choose(
    found: Sequence[Candidate],
    balancing: LoadBalancing,
    client: Workload,
    draw: Draw,
) -> Candidate | None:
    """One candidate by preference, then at random by capacity; None where nobody is left."""
    preferred = _preferred(found, balancing, client)
    index = _weighted([candidate.workload.capacity for candidate in preferred], draw)
    return None if index is None else preferred[index]


def choose_waypoint(waypoints: Sequence[WeightedWaypoint], draw: Draw) -> WeightedWaypoint | None:
    """One of a weighted set; None where the set is empty or weighs nothing."""
    index = _weighted([waypoint.weight for waypoint in waypoints], draw)
    return None if index is None else waypoints[index]


def _preferred(
    found: Sequence[Candidate], balancing: LoadBalancing, client: Workload
) -> Sequence[Candidate]:
    preference = balancing.routing_preference
    if not preference or balancing.mode not in (Mode.STRICT, Mode.FAILOVER):
        return found
    ranks = [rank(preference, client, candidate.workload) for candidate in found]
    strict = balancing.mode is Mode.STRICT
    best = top_rank(preference) if strict else max(ranks, default=0)
    return [candidate for candidate, got in zip(found, ranks, strict=True) if got == best]


def rank(preference: Sequence[Scope], client: Workload, server: Workload) -> int:
    """How well a server fits: the number of leading scopes that it shares with the client.

    A network in first place is preferred without blocking: sharing it outweighs all other scopes,
    and not sharing it still lets the others count.
    """
    score = 0
    for position, scope in enumerate(preference):
        same = _part(client, scope) == _part(server, scope)
        first_network = position == 0 and scope is Scope.NETWORK
        if same:
            score += len(preference) if first_network else 1
        elif not first_network:
            break
    return score


def top_rank(preference: Sequence[Scope]) -> int:
    """The rank of a server that shares every scope."""
    extra = len(preference) - 1 if preference and preference[0] is Scope.NETWORK else 0
    return len(preference) + extra


def _part(workload: Workload, scope: Scope) -> str:
    match scope:
        case Scope.REGION:
            return workload.locality.region
        case Scope.ZONE:
            return workload.locality.zone
        case Scope.SUBZONE:
            return workload.locality.subzone
        case Scope.NODE:
            return workload.node
        case Scope.CLUSTER:
            return workload.cluster_id
        case Scope.NETWORK:
            return workload.network
        case Scope.UNSPECIFIED_SCOPE:
            return ""


def _weighted(weights: Sequence[int], draw: Draw) -> int | None:
    total = sum(weights)
    if total <= 0:
        return None
    point = draw() * total
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight)
