"""What the core needs to know of the mesh; ``ambient.state.core.mesh.MeshState`` provides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ambient.api.address import NetworkAddress
from ambient.api.service import NamespacedHostname, Port, Service
from ambient.api.workload import Workload
from ambient.policy.core.select import PolicySet


class EndpointLike(Protocol):
    """A workload behind a service, with its port numbers."""

    @property
    def workload(self) -> Workload:
        """Where the endpoint runs."""
        ...

    @property
    def ports(self) -> tuple[Port, ...]:
        """Service port to target port, for this workload."""
        ...


class Directory(Protocol):
    """Look-ups in the mesh's state."""

    @property
    def generation(self) -> int:
        """Another number after each change of services, workloads, endpoints or policies."""
        ...

    def service(self, key: NamespacedHostname) -> Service | None:
        """A service by its full name."""
        ...

    def service_by_hostname(self, hostname: str, client_namespace: str) -> Service | None:
        """A service by hostname, as a client in a namespace would find it."""
        ...

    def service_by_address(self, address: NetworkAddress) -> Service | None:
        """The service that owns a virtual address."""
        ...

    def workload_by_address(self, address: NetworkAddress) -> Workload | None:
        """The workload with an address."""
        ...

    def policies_for(self, workload: Workload) -> PolicySet:
        """The L4 policies that select a workload."""
        ...

    def endpoints(self, service: Service) -> Sequence[EndpointLike]:
        """All endpoints of a service, healthy or not."""
        ...
