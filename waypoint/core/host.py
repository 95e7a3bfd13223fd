"""An endpoint of a service: where it is, and what is going on there."""

from __future__ import annotations

from typing import NamedTuple

from ambient.api.address import HostPort
from ambient.api.service import HealthPolicy, Service
from ambient.api.workload import TunnelProtocol, Workload, WorkloadStatus
from waypoint.core.destination_rule import Subset
from waypoint.core.directory import Directory
from waypoint.core.locality import Standing
from waypoint.core.outlier import Monitor

Key = tuple[str, int]


class Target(NamedTuple):
    """An endpoint to connect to: the workload, and its address and application port."""

    workload: Workload
    address: HostPort

    @property
    def hbone(self) -> bool:
        """Is the endpoint reached through the mesh's tunnel?"""
        return self.workload.tunnel_protocol is TunnelProtocol.HBONE

    @property
    def key(self) -> Key:
        """What identifies the endpoint: workload uid and port."""
        return self.workload.uid, self.address.port


class Host:
    """An endpoint as a member of a cluster. ``active`` counts its requests and connections."""

    __slots__ = ("active", "added_s", "gone", "key", "monitor", "standing", "target", "weight")

    def __init__(self, target: Target, added_s: float) -> None:
        self.target = target
        self.key = target.key
        self.weight = max(target.workload.capacity, 1)
        self.standing = Standing()
        self.active = 0
        self.monitor = Monitor()
        self.added_s = added_s
        self.gone = False
        """Has it left the cluster? What is under way there ends on its own."""


def candidates(
    directory: Directory, service: Service, port: int, subset: Subset | None
) -> tuple[Target, ...]:
    """The endpoints that may be used: healthy, in the subset, and serving the port."""
    unhealthy_too = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
    service_targets = {p.service_port: p.target_port for p in service.ports}
    found: list[Target] = []
    for endpoint in directory.endpoints(service):
        workload = endpoint.workload
        host = str(workload.addresses[0]) if workload.addresses else workload.hostname
        if not host:
            continue
        if workload.status is not WorkloadStatus.HEALTHY and not unhealthy_too:
            continue
        if subset is not None and not subset.selects(workload.labels):
            continue
        own = {p.service_port: p.target_port for p in endpoint.ports}
        target = own.get(port) or service_targets.get(port)
        if target:
            found.append(Target(workload, HostPort(host, target)))
    return tuple(sorted(found, key=lambda target: target.key))
