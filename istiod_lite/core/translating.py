"""Marked objects are translated: results into the world, consequences into marks.

One kind after the other; an object is only ever marked by kinds that come before its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ambient.api.service import NamespacedHostname, Service
from ambient.api.workload import Workload
from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry, WorkloadEntrySpec
from istiod_lite.core import (
    backend_policies,
    conditions,
    endpoint_slices,
    envoy_filters,
    network_gateways,
    pods,
    route_status,
    service_entries,
    services,
    targets,
    waypoints,
    workload_entries,
)
from istiod_lite.core.credentials import Credentials
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.marks import Marks
from istiod_lite.core.mesh_config import EntryVisibility
from istiod_lite.core.results import Store
from istiod_lite.core.service_entries import HostFacts
from istiod_lite.core.statuses import Condition
from istiod_lite.core.waypoint_configs import WILDCARDS, WaypointConfigs
from istiod_lite.core.waypoints import Binding, Traffic
from istiod_lite.core.workload_entries import EntrySurroundings
from istiod_lite.core.world import World

T = TypeVar("T")


class Translating:
    """Empties the marks."""

    def __init__(
        self, world: World, marks: Marks, store: Store, configs: WaypointConfigs, creds: Credentials
    ) -> None:
        self._world = world
        self._marks = marks
        self._pending = store.pending
        self._store = store
        self._configs = configs
        self._credentials = creds
        self._uids: dict[ObjectRef, tuple[str, ...]] = {}
        """Workloads of what may have several: slices, ServiceEntries, networks."""
        self._names: dict[ObjectRef, tuple[str, ...]] = {}
        """Services of what may have several."""
        self._owners: dict[str, ObjectRef] = {}
        """Who made a service: several may claim its name, one after the other."""

    def run(self) -> None:
        """Translate everything that is marked."""
        marks = self._marks
        refs, hosts = self._world.hosts.settle()
        for ref in refs:
            marks.ref(ref)
            marks.members(ref)
            self._configs.touch(ref)
        self._touch(hosts)
        for key in _taken(marks.gateways):
            self._gateway(key)
        for network in _taken(marks.networks):
            self._network(network)
        for key in _taken(marks.services):
            self._service(key)
        for key in _taken(marks.service_entries):
            self._service_entry(key)
        for key in _taken(marks.pods):
            self._pod(key)
        for key in _taken(marks.workload_entries):
            self._workload_entry(key)
        for key in _taken(marks.slices):
            self._slice(key)
        self._attached()
        moved = self._configs.settle() | self._pending.waypoints
        self._pending.waypoints |= moved
        self._pending.credentials |= self._credentials.settle(moved=bool(moved))

    def _attached(self) -> None:
        """What hangs on services and waypoints."""
        marks = self._marks
        for ref in _taken(marks.routes):
            self._route(ref)
        for ref in _taken(marks.backend_policies):
            self._backend_policy(ref)
        for key in _taken(marks.policies):
            self._policy(key)
        for ref in _taken(marks.targeted):
            self._targeted(ref)

    def _bound(
        self, ref: ObjectRef, binding: Binding, also: frozenset[ObjectKey] = frozenset()
    ) -> None:
        """Store an object's waypoint; what depends on it is looked at again. It depends itself on
        the Gateways of its binding, and on those in ``also``.
        """
        before = self._world.bindings.put(ref, binding, also)
        if before == binding:
            return
        self._pending.gateways.update(before.asked + binding.asked)
        if ref.kind in ("Service", "ServiceEntry"):
            self._configs.touch(ref, ("services of", ref.key.namespace))
            self._touch(self._world.hosts.of(ref))
            self._marks.pointing_at(ref)
            if before.gateways != binding.gateways:
                self._marks.members(ref)

    def _touch(self, hosts: Iterable[str]) -> None:
        """Objects for waypoints, and routes, that name one of these may mean others now."""
        self._configs.touch(*hosts)
        for host in hosts:
            self._configs.touch(WILDCARDS)
            self._marks.pointing_at(ObjectRef("Hostname", ObjectKey("", host)))

    def _gateway(self, key: ObjectKey) -> None:
        gateway = self._world.inputs.gateways.get(key)
        policy = None
        if gateway is not None and self._world.facts.allow_waypoints:
            accounts = (pod.service_account for pod in self._world.inputs.pods.by("gateway", key))
            if self._world.waypoint(key) is not None:
                policy = waypoints.admitting(gateway, dict.fromkeys(accounts), self._world.facts)
        name = waypoints.policy_key(key)
        existed = name in self._world.authorizations
        self._store.put_authorization(name, policy)
        if existed != (policy is not None):
            for ref in self._world.bindings.bound(key):
                self._marks.ref(ref)
                self._marks.members(ref)

    def _network(self, network: str) -> None:
        found = {
            one.uid: one
            for key in self._world.inputs.gateways.keys_by("network", network)
            if (gateway := self._world.inputs.gateways.get(key)) is not None
            for one in network_gateways.workloads(gateway, self._world.facts)
        }
        self._put_workloads(ObjectRef("Network", ObjectKey("", network)), found)

    def _service(self, key: ObjectKey) -> None:
        service = self._world.inputs.services.get(key)
        ref, host = ObjectRef("Service", key), self._world.facts.hostname(key)
        binding, said = waypoints.UNBOUND, list[Condition]()
        name = f"{key.namespace}/{host}"
        result = None
        if service is not None and services.is_in_mesh(service):
            binding = self._world.bind(service.metadata, Traffic.SERVICE)
            canonical = self._world.hosts.canonical(host) == ref
            namespace = self._world.namespace_of(service.metadata)
            result = services.translate(
                service, namespace, binding, self._world.facts, canonical=canonical
            )
            closed = binding.address is not None
            said += conditions.of_service(binding, result.ingress_use_waypoint, closed=closed)
        self._store.put_status(ref, tuple(said))
        self._put_services(ref, {name: result} if result is not None else {})
        self._bound(ref, binding)

    def _service_entry(self, key: ObjectKey) -> None:
        entry = self._world.inputs.service_entries.get(key)
        ref = ObjectRef("ServiceEntry", key)
        visibility = self._world.visibility(key.namespace)
        if entry is None or visibility is EntryVisibility.NONE:
            self._put_services(ref, {})
            self._put_workloads(ref, {})
            self._bound(ref, waypoints.UNBOUND)
            if entry is not None:
                self._say_of_entry(ref, entry, waypoints.UNBOUND, False)
            return
        private = visibility is EntryVisibility.NAMESPACE
        binding = self._world.bind(entry.metadata, Traffic.SERVICE, private=private)
        # Before the endpoints, which may have to admit the waypoint.
        self._bound(ref, binding, self._world.endpoint_gateways(entry))
        around = HostFacts(
            namespace=self._world.namespace_of(entry.metadata),
            binding=binding,
            private=private,
            canonical=lambda host: self._world.hosts.canonical(host) == ref,
        )
        hosts = self._world.hosts_won(ref, entry)
        made = {
            str(one.key): one
            for one in service_entries.services(entry, hosts, around, self._world.facts)
        }
        self._put_services(ref, made)
        ingress = services.ingress_use_waypoint(
            entry.metadata, around.namespace, binding, self._world.facts
        )
        self._say_of_entry(ref, entry, binding, ingress)
        found = service_entries.endpoints(
            entry, hosts, lambda one: self._around_endpoint(entry, one, hosts), self._world.facts
        )
        self._put_workloads(ref, {one.uid: one for one in found})

    def _say_of_entry(
        self, ref: ObjectRef, entry: ServiceEntry, binding: Binding, ingress: bool
    ) -> None:
        configured = self._world.facts.config.service_entry_visibility is not None
        visibility = self._world.visibility(ref.key.namespace) if configured else None
        closed = binding.address is not None
        said = conditions.of_entry(entry, binding, ingress, visibility, closed=closed)
        problems = conditions.of_remarks(service_entries.remarks(entry))
        self._store.put_status(ref, (*said, *problems))

    def _around_endpoint(
        self, entry: ServiceEntry, one: WorkloadEntrySpec, hosts: Iterable[str]
    ) -> EntrySurroundings:
        """Labels of the entry decide about policies, labels of the endpoint about its waypoint."""
        metadata = entry.metadata
        binding = self._world.bind_endpoint(entry, one)
        behind = [NamespacedHostname(metadata.namespace, host) for host in hosts]
        return EntrySurroundings(
            waypoint=binding.address,
            network_gateway=self._world.network_gateway(one.network),
            policies=self._world.policies_of(metadata.namespace, metadata.labels, binding, behind),
        )

    def _pod(self, key: ObjectKey) -> None:
        pod = self._world.inputs.pods.get(key)
        name = f"{self._world.facts.cluster_id}//Pod/{key.namespace}/{key.name}"
        binding, result = waypoints.UNBOUND, None
        if pod is not None and pods.is_in_mesh(pod):
            binding = self._world.bind_pod(pod)
            behind = self._world.memberships_of_pod(pod)
            around = pods.Surroundings(
                node=self._node_of(pod.spec.node_name),
                services=behind,
                waypoint=binding.address,
                application_tunnel=self._world.application_tunnel(pod),
                policies=self._world.policies_of(
                    key.namespace, pod.metadata.labels, binding, behind
                ),
            )
            result = pods.translate(pod, around, self._world.facts)
        self._bound(ObjectRef("Pod", key), binding)
        self._world.workloads.put(name, result)

    def _workload_entry(self, key: ObjectKey) -> None:
        entry = self._world.inputs.workload_entries.get(key)
        ref = ObjectRef("WorkloadEntry", key)
        kind = "networking.istio.io/WorkloadEntry"
        name = f"{self._world.facts.cluster_id}/{kind}/{key.namespace}/{key.name}"
        binding, said, result = waypoints.UNBOUND, list[Condition](), None
        if entry is not None:
            binding = self._world.bind(entry.metadata, Traffic.WORKLOAD)
            behind = self._world.memberships_of_entry(entry)
            around = EntrySurroundings(
                services=behind,
                waypoint=binding.address,
                network_gateway=self._world.network_gateway(entry.spec.network),
                policies=self._world.policies_of(key.namespace, entry.labels, binding, behind),
            )
            result = workload_entries.translate(entry, around, self._world.facts)
            said += conditions.of_workload(binding, closed=binding.address is not None)
            said += conditions.of_remarks(workload_entries.remarks(entry))
            self._store.put_status(ref, tuple(said))
        self._bound(ref, binding)
        self._world.workloads.put(name, result)

    def _slice(self, key: ObjectKey) -> None:
        slice_ = self._world.inputs.slices.get(key)
        found = {}
        if slice_ is not None:
            service = self._world.service_of(slice_)
            if service is not None:
                found = {
                    one.uid: one
                    for one in endpoint_slices.translate(
                        slice_, service, self._node_of, self._world.facts
                    )
                }
        self._put_workloads(ObjectRef("EndpointSlice", key), found)

    def _node_of(self, name: str) -> objects.Node | None:
        return self._world.inputs.nodes.get(ObjectKey("", name))

    # Policies with targets, and routes.

    def _policy(self, key: ObjectKey) -> None:
        policy = self._world.inputs.policies.get(key)
        if policy is None or not policy.spec.targets:
            return
        found = list(targets.outcomes(policy, self._world))
        ref = ObjectRef("AuthorizationPolicy", key)
        self._store.put_status(ref, (targets.condition(found),))
        failed = (one.text for one in found if one.reason != targets.ACCEPTED)
        self._store.remark(ref.kind, key, failed)

    def _targeted(self, ref: ObjectRef) -> None:
        policy = self._world.inputs.targeted.get(ref)
        if policy is None or not policy.spec.targets:
            return
        found = list(targets.outcomes(policy, self._world))
        condition = targets.condition(found)
        failed = [one.text for one in found if one.reason != targets.ACCEPTED]
        config = self._world.inputs.configs.get(f"{ref.kind}/{ref.key}")
        if ref.kind == "EnvoyFilter" and config is not None:
            void = list(envoy_filters.without_effect(config.object.get("spec")))
            condition = targets.of_patches(condition, config.object["spec"], void)
            failed += [f"{one} has no effect" for one in void]
        self._store.put_status(ref, (condition,))
        self._store.remark(ref.kind, ref.key, failed)

    def _route(self, ref: ObjectRef) -> None:
        route = self._world.inputs.routes.get(ref)
        name = f"{ref.kind}/{ref.key}"
        config = self._world.inputs.written.get(name)
        if route is None or config is None:
            self._store.replace_config(name, None)
            return
        found = tuple(route_status.statuses(ref, route, self._world))
        self._store.put_status(ref, found)
        self._store.replace_config(name, route_status.permitted(ref, route, config, self._world))
        self._configs.touch_name(name)
        texts = (one.message for parent in found for one in parent.conditions if not one.met)
        self._store.remark(ref.kind, ref.key, dict.fromkeys(texts))
        for parent in route.spec.parent_refs or ():
            if parent.kind == "Gateway":
                where = parent.namespace or ref.key.namespace
                self._pending.gateways.add(ObjectKey(where, parent.name))

    def _backend_policy(self, ref: ObjectRef) -> None:
        policy = self._world.inputs.backend_policies.get(ref)
        name = f"{ref.kind}/{ref.key}"
        config = self._world.inputs.written.get(name)
        if policy is None or config is None:
            self._store.replace_config(name, None)
            return
        found, held = backend_policies.outcome(ref, policy, self._world, self._credentials)
        self._store.put_status(ref, found)
        self._store.replace_config(name, backend_policies.for_waypoints(config, held))
        self._configs.touch_name(name)
        self._store.remark(ref.kind, ref.key, backend_policies.problems(found))

    # Results of objects that have several.

    def _put_workloads(self, ref: ObjectRef, found: Mapping[str, Workload]) -> None:
        for uid in {*self._uids.pop(ref, ()), *found}:
            self._world.workloads.put(uid, found.get(uid))
        if found:
            self._uids[ref] = tuple(found)

    def _put_services(self, ref: ObjectRef, found: Mapping[str, Service]) -> None:
        for name in self._names.pop(ref, ()):
            # Somebody else may have got the name in the meantime.
            if name not in found and self._owners.get(name) == ref:
                del self._owners[name]
                self._world.services.put(name, None)
        for name, one in found.items():
            self._owners[name] = ref
            self._world.services.put(name, one)
        if found:
            self._names[ref] = tuple(found)


def _taken(marked: dict[T, None]) -> list[T]:
    """What is marked; from now on it counts as done."""
    found = list(marked)
    marked.clear()
    return found
