"""Everything that the index knows and has decided, with the questions that translators ask it.

Nothing here changes what is known; the index and its staging do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ambient.api.policy import Action, Authorization, Scope
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry, WorkloadEntry, WorkloadEntrySpec
from istiod_lite.core import (
    endpoint_slices,
    network_gateways,
    peer_authentication,
    pods,
    service_entries,
    services,
    waypoints,
    workload_entries,
)
from istiod_lite.core.bindings import Bindings
from istiod_lite.core.changes import Results
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.hosts import Hosts
from istiod_lite.core.inputs import Inputs, anchors, gateways_of
from istiod_lite.core.mesh_config import EntryVisibility
from istiod_lite.core.statuses import Reported, Wanted
from istiod_lite.core.waypoints import Applicant, Binding, Traffic, Waypoint

Memberships = dict[NamespacedHostname, tuple[Port, ...]]


class World:
    """Objects in, results out, and what lies between."""

    def __init__(self, facts: MeshFacts) -> None:
        self.facts = facts
        self.inputs = Inputs()
        self.hosts = Hosts()
        self.bindings = Bindings()
        self.workloads = Results()
        self.services = Results()
        self.authorizations = Results()
        self.statuses: dict[ObjectRef, Wanted] = {}
        """What we have to say; objects of which we say nothing are absent."""
        self.reported: dict[ObjectRef, Reported] = {}
        """What the API server has, for kinds of which we write the status."""
        self.wide_allows: dict[str, set[str]] = {}
        """ALLOW policies without selector by namespace; of the root namespace for all."""

    # Waypoints.

    def namespace_of(self, metadata: objects.Metadata) -> objects.Metadata | None:
        """Labels and annotations of an object's namespace."""
        return self.inputs.namespace_metadata(metadata.namespace)

    def bind(
        self, metadata: objects.Metadata, traffic: Traffic, *, private: bool = False
    ) -> Binding:
        """The waypoint of an object, by its labels and its namespace's."""
        if waypoints.is_instance(metadata):
            return waypoints.UNBOUND
        namespace = self.namespace_of(metadata)
        applicant = Applicant(traffic, namespace, private)
        return waypoints.bind(
            waypoints.wish(metadata, namespace), applicant, self.waypoint, self.facts
        )

    def waypoint(self, key: ObjectKey) -> Waypoint | None:
        """A Gateway as something to bind to, None where it is missing or has no address."""
        gateway = self.inputs.gateways.get(key)
        if gateway is None:
            return None
        return waypoints.waypoint_of(gateway, self.class_of(gateway), self.facts)

    def class_of(self, gateway: objects.Gateway) -> objects.GatewayClass | None:
        """The Gateway's class, if it is there."""
        return self.inputs.gateway_classes.get(ObjectKey("", gateway.spec.gateway_class_name))

    def instance_of(self, pod: objects.Pod) -> objects.Gateway | None:
        """The waypoint of which a pod is an instance; other Gateways' pods are like any pods."""
        for key in gateways_of(pod):
            gateway = self.inputs.gateways.get(key)
            if gateway is not None and (waypoints.is_waypoint(gateway) or gateway.status.addresses):
                return gateway
        return None

    def bind_pod(self, pod: objects.Pod) -> Binding:
        """As ``bind``; instances of waypoints never go through one."""
        if self.instance_of(pod) is not None:
            return waypoints.UNBOUND
        return self.bind(pod.metadata, Traffic.WORKLOAD)

    def bind_endpoint(self, entry: ServiceEntry, one: WorkloadEntrySpec) -> Binding:
        """The waypoint of an inline endpoint, by its own labels and its namespace's."""
        return self.bind(_endpoint(entry, one), Traffic.WORKLOAD)

    def endpoint_gateways(self, entry: ServiceEntry) -> frozenset[ObjectKey]:
        """The Gateways on which the endpoints of an entry depend."""
        namespace = self.namespace_of(entry.metadata)
        wishes = (
            waypoints.wish(_endpoint(entry, one), namespace) for one in entry.spec.endpoints or ()
        )
        return frozenset(asked.gateway for asked in wishes if asked is not None)

    def application_tunnel(self, pod: objects.Pod) -> Any:
        """How peers hand traffic to a waypoint's pod, where not by HBONE."""
        gateway = self.instance_of(pod)
        if gateway is None:
            return None
        return waypoints.inbound_binding(gateway, self.class_of(gateway))

    # Networks.

    def network_gateway(self, network: str) -> GatewayAddress | None:
        """Where another network is entered: its first gateway that has an address."""
        if not network or network == self.facts.network:
            return None
        for key in sorted(self.inputs.gateways.keys_by("network", network)):
            gateway = self.inputs.gateways.get(key)
            found = gateway and network_gateways.address(gateway)
            if found:
                return found
        return None

    # Hosts.

    def visibility(self, namespace: str) -> EntryVisibility:
        """Who sees the ServiceEntries of a namespace."""
        metadata = self.inputs.namespace_metadata(namespace)
        return self.facts.config.visibility(metadata.labels if metadata is not None else None)

    def hosts_won(self, ref: ObjectRef, entry: ServiceEntry) -> list[str]:
        """The hosts for which a ServiceEntry speaks in its namespace."""
        return [host for host in service_entries.hosts_of(entry) if self.hosts.wins(ref, host)]

    # Memberships.

    def services_selecting(
        self, namespace: str, labels: Mapping[str, str] | None
    ) -> Iterator[objects.Service]:
        """Services of the mesh whose selector selects these labels."""
        for anchor in anchors(namespace, labels):
            for service in self.inputs.services.by("selecting", anchor):
                if services.is_in_mesh(service) and objects.selects(
                    service.spec.selector, dict(labels or {})
                ):
                    yield service

    def entries_selecting(
        self, namespace: str, labels: Mapping[str, str] | None
    ) -> Iterator[ServiceEntry]:
        """ServiceEntries whose workloadSelector selects these labels."""
        for anchor in anchors(namespace, labels):
            for entry in self.inputs.service_entries.by("selecting", anchor):
                if objects.selects(entry.selector, dict(labels or {})):
                    yield entry

    def memberships_of_pod(self, pod: objects.Pod) -> Memberships:
        """The services behind which a pod is, and its ports there."""
        namespace, labels = pod.metadata.namespace, pod.metadata.labels
        found: Memberships = {}
        for service in self.services_selecting(namespace, labels):
            found[services.service_key(service, self.facts)] = pods.target_ports(pod, service)
        for slice_ in self.inputs.slices.by("pod", ObjectKey(namespace, pod.metadata.name)):
            named = self.service_of(slice_)
            if named is None or named.spec.selector:
                continue
            ports = endpoint_slices.membership(pod, slice_, named)
            if ports is not None:
                found[services.service_key(named, self.facts)] = ports
        if self.facts.service_entries_select_pods:
            for entry in self.entries_selecting(namespace, labels):
                ports = service_entries.ports_of_pod(entry, pod)
                found |= dict.fromkeys(self._names(entry), ports)
        return dict(sorted(found.items()))

    def memberships_of_entry(self, workload: WorkloadEntry) -> Memberships:
        """The same for a WorkloadEntry."""
        namespace, labels = workload.metadata.namespace, workload.labels
        found: Memberships = {}
        if self.facts.services_select_workload_entries:
            for service in self.services_selecting(namespace, labels):
                ports = workload_entries.ports_of_service(workload, service)
                found[services.service_key(service, self.facts)] = ports
        for entry in self.entries_selecting(namespace, labels):
            ports = service_entries.ports_of_workload(entry, workload)
            found |= dict.fromkeys(self._names(entry), ports)
        return dict(sorted(found.items()))

    def _names(self, entry: ServiceEntry) -> Iterator[NamespacedHostname]:
        key = ObjectKey(entry.metadata.namespace, entry.metadata.name)
        hosts = self.hosts_won(ObjectRef("ServiceEntry", key), entry)
        return (NamespacedHostname(key.namespace, host) for host in hosts)

    def service_of(self, slice_: objects.EndpointSlice) -> objects.Service | None:
        """The Service of the mesh that a slice belongs to."""
        named = endpoint_slices.service_of(slice_)
        service = self.inputs.services.get(named) if named is not None else None
        return service if service is not None and services.is_in_mesh(service) else None

    # Policies.

    def policies_of(
        self,
        namespace: str,
        labels: Mapping[str, str] | None,
        binding: Binding,
        behind: Iterable[NamespacedHostname],
    ) -> tuple[str, ...]:
        """The policies that a workload refers to: those that select it, what its peers have to
        prove, and the admission of its waypoints.
        """
        root, have = self.facts.root_namespace, dict(labels or {})
        keys = set()
        for where in dict.fromkeys((namespace, root)):
            for anchor in anchors(where, labels):
                for policy in self.inputs.policies.by("selecting", anchor):
                    selector = policy.spec.selector
                    name = f"{where}/{policy.metadata.name}"
                    if (
                        selector is not None
                        and objects.selects(selector.match_labels, have)
                        and name in self.authorizations
                    ):
                        keys.add(name)
        own = peer_authentication.oldest(
            one
            for one in self.inputs.peer_authentications.by("namespace", namespace)
            if peer_authentication.selects(one, have)
        )
        strict = peer_authentication.policy_key(own, self.inherited_strict(namespace), root)
        admitted = self._admitted(namespace, keys, binding, behind)
        return (*sorted(keys), *((strict,) if strict else ()), *admitted)

    def _admitted(
        self,
        namespace: str,
        selecting: Iterable[str],
        binding: Binding,
        behind: Iterable[NamespacedHostname],
    ) -> list[str]:
        """Policies that admit the waypoints of a workload, where ALLOW policies refuse others."""
        if not self.facts.allow_waypoints:
            return []
        wide = self.wide_allows
        if not (
            wide.get(namespace)
            or wide.get(self.facts.root_namespace)
            or any(is_allow(self.authorizations[name]) for name in selecting)
        ):
            return []
        gateways = set(binding.gateways)
        for name in behind:
            ref = self.hosts.winner(name.namespace, name.hostname)
            if ref is not None:
                gateways.update(self.bindings.get(ref).gateways)
        names = sorted(map(waypoints.policy_key, gateways))
        return [name for name in names if name in self.authorizations]

    def inherited_strict(self, namespace: str) -> bool:
        """Whether workloads of a namespace are strict without a policy of their own."""
        mesh, own = (
            peer_authentication.oldest(
                one
                for one in self.inputs.peer_authentications.by("namespace", where)
                if not peer_authentication.has_selector(one)
            )
            for where in (self.facts.root_namespace, namespace)
        )
        return peer_authentication.inherited_strict(mesh, own)


def _endpoint(entry: ServiceEntry, one: WorkloadEntrySpec) -> objects.Metadata:
    metadata = entry.metadata
    return objects.Metadata(name=metadata.name, namespace=metadata.namespace, labels=one.labels)


def is_allow(policy: Authorization) -> bool:
    """Whether it refuses what it does not name."""
    return policy.action is Action.ALLOW and not policy.dry_run


def is_wide(policy: Authorization) -> bool:
    """Whether it applies to workloads that do not refer to it."""
    return policy.scope is not Scope.WORKLOAD_SELECTOR


def only_labels_differ(old: Any, new: Any) -> bool:
    """Whether two workloads are the same to everybody but waypoints."""
    return (
        old is not None
        and new is not None
        and msgspec.structs.replace(old, labels=new.labels) == new
    )
