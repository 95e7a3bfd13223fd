"""Objects in: each is noted, and what depends on it is marked. Nothing is translated here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from ambient.api.config import ConfigObject
from ambient.kube.core import objects
from ambient.kube.core.backend_policy_objects import BackendPolicy
from ambient.kube.core.networking_objects import ServiceEntry, WorkloadEntry, WorkloadGroup
from ambient.kube.core.objects import ObjectError
from ambient.kube.core.resources import KubeObject
from ambient.kube.core.route_objects import ReferenceGrant, Route
from istiod_lite.core import (
    mesh_config,
    network_gateways,
    peer_authentication,
    pods,
    policies,
    service_entries,
    services,
    waypoints,
    workload_entries,
)
from istiod_lite.core.credentials import Credentials
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.hosts import Claim
from istiod_lite.core.inputs import (
    BACKEND_POLICY_KINDS,
    CONFIG_KINDS,
    NETWORK_LABEL,
    ROUTE_KINDS,
    TARGETED_KINDS,
    backend_targets_of,
    config_object,
    gateways_of,
    parents_of,
    said,
    unreadable_peer_authentication,
    unreadable_policy,
)
from istiod_lite.core.marks import Marks
from istiod_lite.core.mesh_config import EntryVisibility, MeshConfig
from istiod_lite.core.results import Store
from istiod_lite.core.statuses import Condition
from istiod_lite.core.waypoint_configs import EVERY_WAYPOINT, WaypointConfigs
from istiod_lite.core.world import World

T = TypeVar("T")
Stager = Callable[[ObjectKey, KubeObject | None], None]


class Staging:
    """One method a kind; ``None`` for an object that is gone or cannot be read."""

    def __init__(
        self, world: World, marks: Marks, store: Store, configs: WaypointConfigs, creds: Credentials
    ) -> None:
        self._world = world
        self._marks = marks
        self.pending = store.pending
        self._store = store
        self._configs = configs
        self._credentials = creds
        self._first_facts: MeshFacts = world.facts
        self.stagers: Mapping[str, Stager] = {
            "MeshConfig": self._mesh_config,
            "Namespace": self._namespace,
            "Node": self._node,
            "ServiceAccount": self._account,
            "GatewayClass": self._gateway_class,
            "Gateway": self._gateway,
            "Pod": self._pod,
            "Service": self._service,
            "EndpointSlice": self._slice,
            "ServiceEntry": self._service_entry,
            "WorkloadEntry": self._workload_entry,
            "WorkloadGroup": self._workload_group,
            "AuthorizationPolicy": self._policy,
            "PeerAuthentication": self._peer_authentication,
            "ReferenceGrant": self._grant,
            **{kind: self._config_stager(kind) for kind in CONFIG_KINDS},
            "DestinationRule": self._destination_rule,
            **{kind: self._backend_policy_stager(kind) for kind in BACKEND_POLICY_KINDS},
            **{kind: self._targeted_stager(kind) for kind in TARGETED_KINDS},
        }

    # The mesh as a whole.

    def _mesh_config(self, key: ObjectKey, obj: KubeObject | None) -> None:
        self._take_facts(config=mesh_config.read(obj) if obj is not None else MeshConfig())
        for_waypoints = mesh_config.for_waypoints(obj) if obj is not None else None
        self._store.put_config("MeshConfig", key, for_waypoints)
        for namespace in self._world.inputs.service_entries.values_of("namespace"):
            self._claim_hosts_of(str(namespace))

    def _take_facts(self, **changed: Any) -> None:
        facts = msgspec.structs.replace(self._world.facts, **changed)
        if facts != self._world.facts:
            self._world.facts = facts
            self._marks.everything()

    def _namespace(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.Namespace)
        old = self._world.inputs.namespaces.put(key, new)
        self.pending.namespaces.add(key.name)
        if said(old) == said(new):
            return
        self._marks.namespace(key.name)
        self._claim_hosts_of(key.name)
        for route in self._world.inputs.routes.keys_by("namespace", key.name):
            self._configs.touch_name(f"{route.kind}/{route.key}")
        if key.name == self._world.facts.root_namespace:
            label = new.metadata.label(NETWORK_LABEL) if new is not None else None
            self._take_facts(network=label or self._first_facts.network)

    def _node(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.Node)
        inputs = self._world.inputs
        old = inputs.nodes.put(key, new)
        if pods.locality(old) != pods.locality(new):
            self._marks.pods |= dict.fromkeys(inputs.pods.keys_by("node", key.name))
            self._marks.slices |= dict.fromkeys(inputs.slices.keys_by("node", key.name))

    def _account(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.ServiceAccount)
        old = self._world.inputs.accounts.put(key, new)
        self._look_at_gateways(old, new)

    def _look_at_gateways(self, *found: Any) -> None:
        """A part of a waypoint changed: its controller and its status may have to act."""
        for one in found:
            name = one.metadata.label(objects.GATEWAY_NAME_LABEL) if one is not None else None
            if name:
                self.pending.gateways.add(ObjectKey(one.metadata.namespace, name))

    # Gateways.

    def _gateway_class(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.GatewayClass)
        inputs = self._world.inputs
        gateways = inputs.gateways.keys_by("class_", key.name)
        before = [self._offer(inputs.gateways.get(one)) for one in gateways]
        inputs.gateway_classes.put(key, new)
        self._marks.pointing_at(ObjectRef("GatewayClass", key))
        for one, offer in zip(gateways, before, strict=True):
            if self._offer(inputs.gateways.get(one)) != offer:
                self._offer_changed(one)

    def _gateway(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.Gateway)
        inputs = self._world.inputs
        before = self._offer(inputs.gateways.get(key))
        old = inputs.gateways.put(key, new)
        self.pending.gateways.add(key)
        self._look_at_networks(old, new)
        self._marks.gateways[key] = None
        if self._offer(new) != before:
            self._offer_changed(key)

    def _offer(self, gateway: objects.Gateway | None) -> Any:
        """What others see of a Gateway."""
        if gateway is None:
            return None
        class_, facts = self._world.class_of(gateway), self._world.facts
        return (
            waypoints.waypoint_of(gateway, class_, facts),
            waypoints.inbound_binding(gateway, class_),
            waypoints.is_waypoint(gateway),
            gateway.spec.listeners,
        )

    def _offer_changed(self, key: ObjectKey) -> None:
        for ref in self._world.bindings.asking(key):
            self._marks.ref(ref)
            services_there = ("services of", ref.key.namespace)
            self._configs.touch(ref, services_there, *self._world.hosts.of(ref))
        self._marks.pods |= dict.fromkeys(self._world.inputs.pods.keys_by("gateway", key))
        ref = ObjectRef("Gateway", key)
        self._marks.pointing_at(ref)
        self._configs.touch(ref, ("waypoints of", key.namespace), EVERY_WAYPOINT)

    def _look_at_networks(self, *gateways: objects.Gateway | None) -> None:
        for gateway in gateways:
            network = network_gateways.network_of(gateway) if gateway is not None else ""
            if network:
                self._marks.network(network)
                self._marks.networks[network] = None

    # Workloads and services.

    def _pod(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.Pod)
        old = self._world.inputs.pods.put(key, new)
        self._marks.pods[key] = None
        for pod in (old, new):
            for gateway in gateways_of(pod) if pod is not None else ():
                self.pending.gateways.add(gateway)
                self._marks.gateways[gateway] = None

    def _service(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.Service)
        old = self._world.inputs.services.put(key, new)
        ref = ObjectRef("Service", key)
        self._marks.services[key] = None
        self._look_at_gateways(old, new)
        claim = None
        if new is not None and services.is_in_mesh(new):
            claim = Claim(outside=False, age=new.metadata.age_order, ref=ref)
        self._world.hosts.put(ref, (self._world.facts.hostname(key),), claim)
        if old is None or new is None or old.metadata.labels != new.metadata.labels:
            self.pending.labelled_services.add(key)
        if old is not None and new is not None and old.spec == new.spec:
            return  # selector and ports are all that others read
        self._marks.pointing_at(ref)
        for service in (old, new):
            if service is not None and service.spec.selector:
                self._marks.selected(key.namespace, service.spec.selector)
        for slice_ in self._world.inputs.slices.keys_by("service", key):
            self._marks.slice(slice_)

    def _slice(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.EndpointSlice)
        self._marks.slice(key)
        self._world.inputs.slices.put(key, new)
        self._marks.slice(key)

    def _service_entry(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, ServiceEntry)
        old = self._world.inputs.service_entries.put(key, new)
        self._marks.service_entries[key] = None
        self.pending.entries.add(key)
        self._claim(key, new)
        if new is not None:
            self._store.remark("ServiceEntry", key, service_entries.remarks(new))
        if old is not None and new is not None and old.spec == new.spec:
            return
        self._marks.pointing_at(ObjectRef("ServiceEntry", key))
        for entry in (old, new):
            if entry is not None and entry.selector:
                self._marks.selected(key.namespace, entry.selector)

    def _claim_hosts_of(self, namespace: str) -> None:
        """Visibility may have changed for all ServiceEntries of a namespace."""
        for key in self._world.inputs.service_entries.keys_by("namespace", namespace):
            self._marks.service_entries[key] = None
            self._claim(key, self._world.inputs.service_entries.get(key))

    def _claim(self, key: ObjectKey, entry: ServiceEntry | None) -> None:
        ref = ObjectRef("ServiceEntry", key)
        visibility = self._world.visibility(key.namespace)
        if entry is None or visibility is EntryVisibility.NONE:
            self._world.hosts.put(ref, (), None)
            return
        private = visibility is EntryVisibility.NAMESPACE
        claim = Claim(outside=True, age=entry.metadata.age_order, ref=ref, private=private)
        self._world.hosts.put(ref, service_entries.hosts_of(entry), claim)

    def _workload_entry(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = _decoded(obj, WorkloadEntry)
        self._world.inputs.workload_entries.put(key, new)
        self._marks.workload_entries[key] = None
        if new is not None:
            self._store.remark("WorkloadEntry", key, workload_entries.remarks(new))

    def _workload_group(self, key: ObjectKey, obj: KubeObject | None) -> None:
        # A template for WorkloadEntries that others create: nothing follows from it here.
        self._world.inputs.workload_groups.put(key, _decoded(obj, WorkloadGroup))

    # Policies.

    def _policy(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new: objects.AuthorizationPolicy | None = None
        told = policies.Translation(None)
        facts = self._world.facts
        if obj is not None:
            try:
                new = objects.decode(obj, objects.AuthorizationPolicy)
                told = policies.translate(new, facts)
            except ObjectError as error:
                new = unreadable_policy(key, obj)
                told = policies.unreadable(key, new.spec.selector, error.reason, facts)
        old = self._world.inputs.policies.put(key, new)
        self._put_authorization(str(key), told.authorization)
        targeted = new is not None and bool(new.spec.targets)
        self._store.put_config("AuthorizationPolicy", key, obj if targeted else None)
        if targeted:
            self._marks.policies[key] = None
        else:
            self._store.remark("AuthorizationPolicy", key, told.remarks)
            condition = told.condition
            said_ = (condition,) if condition is not None else ()
            self._store.put_status(ObjectRef("AuthorizationPolicy", key), said_)
        for policy in (old, new):
            if policy is not None and policy.spec.selector is not None:
                labels = policy.spec.selector.match_labels
                self._marks.selected_by_policy(key.namespace, labels)

    def _put_authorization(self, name: str, new: Any) -> None:
        """A policy without selector that allows decides whether waypoints have to be admitted."""
        namespace = self._store.put_authorization(name, new)
        if namespace is not None:
            self._marks.selected_by_policy(namespace, None)

    def _peer_authentication(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new: objects.PeerAuthentication | None = None
        if obj is not None:
            try:
                new = objects.decode(obj, objects.PeerAuthentication)
                texts = peer_authentication.remarks(new)
            except ObjectError as error:
                new = unreadable_peer_authentication(key, obj)
                texts = (f"{error.reason}: taken as STRICT",)
            self._store.remark("PeerAuthentication", key, texts)
        table = self._world.inputs.peer_authentications
        old = table.put(key, new)
        if old == new:
            return
        root = self._world.facts.root_namespace
        static = peer_authentication.static_strict(root)
        self._put_authorization(static.key, static if len(table) else None)
        # What a namespace inherits decides what its own policies convert to.
        changed = (
            tuple(table) if key.namespace == root else table.keys_by("namespace", key.namespace)
        )
        for other in (key, *changed):
            self._convert(other)
        self._marks.selected_by_policy(key.namespace, None)

    def _convert(self, key: ObjectKey) -> None:
        policy = self._world.inputs.peer_authentications.get(key)
        result = None
        said_: tuple[Condition, ...] = ()
        if policy is not None:
            inherited = self._world.inherited_strict(key.namespace)
            if peer_authentication.has_selector(policy):
                result = peer_authentication.converted(policy, inherited)
            others = self._world.inputs.peer_authentications.by("namespace", key.namespace)
            older = peer_authentication.ignored_for(policy, others)
            said_ = (peer_authentication.condition(policy, inherited, older),)
        name = f"{key.namespace}/{peer_authentication.CONVERTED_PREFIX}{key.name}"
        self._put_authorization(name, result)
        self._store.put_status(ObjectRef("PeerAuthentication", key), said_)

    # Configuration of waypoints, and routes.

    def _config_stager(self, kind: str) -> Stager:
        if kind in ROUTE_KINDS:
            return lambda key, obj: self._route(ObjectRef(kind, key), obj)
        return lambda key, obj: self._store.put_config(kind, key, obj)

    def _destination_rule(self, key: ObjectKey, obj: KubeObject | None) -> None:
        ref = ObjectRef("DestinationRule", key)
        self._store.put_config(ref.kind, key, obj)
        self._credentials.note(ref, self._world.inputs.configs.get(f"{ref.kind}/{key}"))

    def _backend_policy_stager(self, kind: str) -> Stager:
        return lambda key, obj: self._backend_policy(ObjectRef(kind, key), obj)

    def _backend_policy(self, ref: ObjectRef, obj: KubeObject | None) -> None:
        new = _decoded(obj, BackendPolicy)
        inputs = self._world.inputs
        old = inputs.backend_policies.put(ref, new)
        written = config_object(ref.kind, ref.key, obj) if obj is not None else None
        self._keep_written(ref, written)
        self._credentials.note(ref, written)
        self._marks.backend_policies[ref] = None
        for policy in (old, new):
            for target in backend_targets_of(policy) if policy is not None else ():
                self._marks.targeting(target)  # another one may be the oldest now

    def _keep_written(self, ref: ObjectRef, written: ConfigObject | None) -> None:
        name, known = f"{ref.kind}/{ref.key}", self._world.inputs.written
        if written is None:
            known.pop(name, None)
        else:
            known[name] = written

    def _targeted_stager(self, kind: str) -> Stager:
        return lambda key, obj: self._targeted(ObjectRef(kind, key), obj)

    def _targeted(self, ref: ObjectRef, obj: KubeObject | None) -> None:
        new = _decoded(obj, objects.TargetedPolicy)
        self._world.inputs.targeted.put(ref, new)
        wide = ref.kind == "Telemetry" and new is not None and not new.spec.selector
        used = new is not None and (bool(new.spec.targets) or wide)
        self._store.put_config(ref.kind, ref.key, obj if used else None)
        if new is not None and new.spec.targets:
            self._marks.targeted[ref] = None
            return
        self._store.put_status(ref, ())
        texts = ("only waypoints read it: attach it with targetRefs",) if new and not used else ()
        self._store.remark(ref.kind, ref.key, texts)

    def _route(self, ref: ObjectRef, obj: KubeObject | None) -> None:
        new = _decoded(obj, Route)
        inputs = self._world.inputs
        old = inputs.routes.put(ref, new)
        written = config_object(ref.kind, ref.key, obj) if obj is not None else None
        self._keep_written(ref, written)
        self._marks.routes[ref] = None
        for route in (old, new):
            for parent in parents_of(route) if route is not None else ():
                if parent.kind == "Gateway":
                    self.pending.gateways.add(parent.key)

    def _grant(self, key: ObjectKey, obj: KubeObject | None) -> None:
        inputs = self._world.inputs
        inputs.grants.put(key, _decoded(obj, ReferenceGrant))
        for where in (key.namespace, ""):  # hosts are of no namespace
            routes = inputs.routes.keys_by("backend_namespace", where)
            self._marks.routes |= dict.fromkeys(routes)


def _decoded(obj: KubeObject | None, kind: type[T]) -> T | None:
    return objects.decode(obj, kind) if obj is not None else None


KINDS: Final = (
    "MeshConfig",
    "Namespace",
    "Node",
    "ServiceAccount",
    "GatewayClass",
    "Gateway",
    "AuthorizationPolicy",
    "PeerAuthentication",
    "ReferenceGrant",
    "Service",
    "ServiceEntry",
    *CONFIG_KINDS,
    *TARGETED_KINDS,
    "WorkloadGroup",
    "WorkloadEntry",
    "EndpointSlice",
    "Pod",
)
"""What is understood, in the order in which loading is cheapest."""
