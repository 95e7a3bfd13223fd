"""Which endpoint gets a request; chance and load are arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from ambient.api.address import HostPort
from ambient.api.service import HealthPolicy, Service
from ambient.api.workload import TunnelProtocol, Workload, WorkloadStatus
from waypoint.core.destination_rule import Balancing, Subset
from waypoint.core.directory import Directory

Draw = Callable[[], float]
"""Gives a number in [0, 1) each time."""


class Target(NamedTuple):
    """An endpoint to connect to: the workload, and its address and application port."""

    workload: Workload
    address: HostPort

    @property
    def hbone(self) -> bool:
        """Is the endpoint reached through the mesh's tunnel?"""
        return self.workload.tunnel_protocol is TunnelProtocol.HBONE

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the endpoint: workload uid and port."""
        return self.workload.uid, self.address.port


def candidates(
    directory: Directory, service: Service, port: int, subset: Subset | None
) -> tuple[Target, ...]:
    """The endpoints that may be used: healthy, in the subset, and serving the port."""
    unhealthy_too = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
    service_targets = {p.service_port: p.target_port for p in service.ports}
    found: list[Target] = []
    for endpoint in directory.endpoints(service):
        workload = endpoint.workload
        if not workload.addresses:
            continue
        if workload.status is not WorkloadStatus.HEALTHY and not unhealthy_too:
            continue
        if subset is not None and not subset.selects(workload.labels):
            continue
        own = {p.service_port: p.target_port for p in endpoint.ports}
        target = own.get(port) or service_targets.get(port)
        if target:
            found.append(Target(workload, HostPort(str(workload.addresses[0]), target)))
    return tuple(sorted(found, key=lambda target: target.key))


class Balancer:
    """Chooses endpoints; remembers only where round robin stands."""

    def __init__(self, draw: Draw, active: Callable[[tuple[str, int]], int]) -> None:
        """``active`` tells how many requests an endpoint has at the moment."""
        self._draw = draw
        self._active = active
        self._turn: dict[str, int] = {}

    def choose(
        self,
        targets: Sequence[Target],
        balancing: Balancing,
        *,
        group: str,
        tried: Collection[tuple[str, int]] = (),
    ) -> Target | None:
        """An endpoint that was not tried yet; None where there is none.

        ``group`` names the set of endpoints, for round robin.
        """
        fresh = [target for target in targets if target.key not in tried]
        if len(fresh) < 2:
            return fresh[0] if fresh else None
        if balancing is Balancing.ROUND_ROBIN:
            turn = self._turn.get(group, int(self._draw() * len(fresh)))
            self._turn[group] = turn + 1
            return fresh[turn % len(fresh)]
        first = self._weighted(fresh)
        if balancing is Balancing.RANDOM:
            return first
        second = self._weighted([target for target in fresh if target is not first])
        return min(first, second, key=lambda target: self._active(target.key))

    def _weighted(self, targets: Sequence[Target]) -> Target:
        weights = [max(target.workload.capacity, 1) for target in targets]
        point = self._draw() * sum(weights)
        for target, weight in zip(targets, weights, strict=True):
            point -= weight
            if point < 0:
                return target
        return targets[-1]
