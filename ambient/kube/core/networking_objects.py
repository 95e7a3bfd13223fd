"""Hosts and workloads outside Kubernetes: ServiceEntry, WorkloadEntry, WorkloadGroup."""

from __future__ import annotations

from ambient.kube.core.objects import Camel, Metadata


class ServiceEntryPort(Camel, frozen=True):
    """One port of the hosts; ``protocol`` is text such as HTTP or GRPC."""

    number: int
    name: str = ""
    protocol: str = ""
    target_port: int | None = None


class WorkloadEntrySpec(Camel, frozen=True):
    """A workload, of its own or inline as an endpoint; ``address`` is an IP, a name or empty."""

    address: str = ""
    ports: dict[str, int] | None = None
    labels: dict[str, str] | None = None
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


class WorkloadSelector(Camel, frozen=True):
    labels: dict[str, str] | None = None


class ServiceEntrySpec(Camel, frozen=True):
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] | None = None
    ports: tuple[ServiceEntryPort, ...] | None = None
    resolution: str = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] | None = None
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] | None = None
    subject_alt_names: tuple[str, ...] | None = None


class AssignedAddress(Camel, frozen=True):
    """A virtual address that the control plane gave to a host."""

    value: str = ""
    host: str = ""


class ServiceEntryStatus(Camel, frozen=True):
    addresses: tuple[AssignedAddress, ...] | None = None


class ServiceEntry(Camel, frozen=True):
    metadata: Metadata
    spec: ServiceEntrySpec = ServiceEntrySpec()
    status: ServiceEntryStatus = ServiceEntryStatus()

    @property
    def selector(self) -> dict[str, str] | None:
        """Labels of the workloads behind it; None where it selects none."""
        selector = self.spec.workload_selector
        return (selector.labels or None) if selector is not None else None


class WorkloadEntry(Camel, frozen=True):
    metadata: Metadata
    spec: WorkloadEntrySpec = WorkloadEntrySpec()

    @property
    def labels(self) -> dict[str, str]:
        """What selectors see: labels of the spec and of the object, which win."""
        return {**(self.spec.labels or {}), **(self.metadata.labels or {})}


class WorkloadGroup(Camel, frozen=True):
    metadata: Metadata
