"""What a proxy knows of the mesh: one writer, synchronous updates, indexed look-ups.

``apply`` has no await inside, so nobody ever sees half an update, and any order of updates that
ends in the same resources ends in the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ambient.api.address import NetworkAddress
from ambient.api.policy import Authorization
from ambient.api.service import NamespacedHostname, Service
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, WORKLOAD_TYPE
from ambient.api.workload import Workload
from ambient.policy.core.select import PolicySet
from ambient.state.core.policies import Policies
from ambient.state.core.services import Endpoint, Services
from ambient.state.core.workloads import Workloads

__all__ = ["Endpoint", "MeshState"]


class MeshState:
    """Workloads, services, endpoints and policies."""

    def __init__(self) -> None:
        self.workloads = Workloads()
        self.services = Services()
        self.policies = Policies()
        self.generation = 0
        """Counts the changes of services, workloads and policies."""
        self.registry_only = False
        """Whether what no workload and no service has is out of bounds (``outboundTrafficPolicy``
        of the mesh)."""

    def apply(
        self, type_url: str, changed: Mapping[str, object], removed: Iterable[str] = ()
    ) -> frozenset[str]:
        """Take over an update; removals last. Returns the names of what really changed.

        Names are those of xDS: uid, ``namespace/hostname`` or ``namespace/name``. A service also
        counts as changed where its endpoints did.
        Raises ValueError for a type that this state does not hold.
        """
        if type_url == AUTHORIZATION_TYPE:
            return self._apply_policies(changed, removed)
        if type_url not in (ADDRESS_TYPE, WORKLOAD_TYPE):
            raise ValueError(f"the mesh state does not hold {type_url}")
        touched: set[str] = set()
        for value in changed.values():
            if isinstance(value, Workload):
                touched |= self._put_workload(value)
            elif isinstance(value, Service) and self.services.get(value.key) != value:
                self.services.put(value)
                touched.add(str(value.key))
        for name in removed:
            touched |= self._remove_address(name)
        self.generation += bool(touched)
        return frozenset(touched)

    def _put_workload(self, workload: Workload) -> set[str]:
        if self.workloads.get(workload.uid) == workload:
            return set()
        old = self.workloads.put(workload)
        services = self.services.move(old, workload)
        return {workload.uid, *map(str, services)}

    def _remove_address(self, name: str) -> set[str]:
        """A name is tried as a uid first, then as a service (ztunnel src/state.rs)."""
        workload = self.workloads.remove(name)
        if workload is not None:
            return {name, *map(str, self.services.move(workload, None))}
        try:
            key = NamespacedHostname.parse(name)
        except ValueError:
            return set()
        return {name} if self.services.remove(key) else set()

    def _apply_policies(
        self, changed: Mapping[str, object], removed: Iterable[str]
    ) -> frozenset[str]:
        touched: set[str] = set()
        for value in changed.values():
            if isinstance(value, Authorization) and self.policies.get(value.key) != value:
                self.policies.put(value)
                touched.add(value.key)
        touched.update(name for name in removed if self.policies.remove(name) is not None)
        self.generation += bool(touched)
        return frozenset(touched)

    def workload(self, uid: str) -> Workload | None:
        """By uid."""
        return self.workloads.get(uid)

    def workload_by_address(self, address: NetworkAddress) -> Workload | None:
        """The likeliest owner of an address: pods before entries, HBONE before plain."""
        found = self.workloads.at(address)
        return found[0] if found else None

    def workloads_of_pod(self, namespace: str, name: str) -> tuple[Workload, ...]:
        """By name, the likeliest pod first; other clusters may have pods of the same name."""
        return self.workloads.of_pod(namespace, name)

    def service(self, key: NamespacedHostname) -> Service | None:
        """By namespace and hostname."""
        return self.services.get(key)

    def service_by_address(
        self, address: NetworkAddress, client_namespace: str = ""
    ) -> Service | None:
        """By virtual address (exact, then the longest range), as this namespace sees it."""
        return self.services.at(address, client_namespace)

    def service_by_hostname(self, hostname: str, client_namespace: str = "") -> Service | None:
        """By hostname, as this namespace sees it."""
        return self.services.named(hostname, client_namespace)

    def endpoints(self, service: Service | NamespacedHostname) -> tuple[Endpoint, ...]:
        """All members of a service, unhealthy ones too, in a stable order."""
        return self.services.endpoints(service.key if isinstance(service, Service) else service)

    def policies_for(self, workload: Workload) -> PolicySet:
        """The compiled policies that select ``workload``; cached until one of them changes."""
        return self.policies.of(workload)
