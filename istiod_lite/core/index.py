"""The mesh as proxies see it, kept up to date object by object.

``apply`` takes one Kubernetes object and returns the resource keys that changed by it; ``stage``
and ``settle`` do the same for many at once. Only what an object can influence is translated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.policy import Authorization
from ambient.api.service import NamespacedHostname, Port, Service
from ambient.api.workload import Workload
from ambient.kube.core import objects
from ambient.kube.core.objects import ObjectError
from ambient.kube.core.resources import KubeObject
from istiod_lite.core import (
    endpoint_slices,
    peer_authentication,
    pods,
    policies,
    services,
    targets,
    waypoint_configs,
    waypoints,
)
from istiod_lite.core.changes import Changes, Pending, Remark, replace
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.inputs import (
    CONFIG_KINDS,
    Inputs,
    config_object,
    key_of,
    said,
    unreadable_peer_authentication,
    unreadable_policy,
)
from istiod_lite.core.waypoints import Binding, Traffic


class Index:
    """Kubernetes objects in, mesh resources out."""

    KINDS: Final = (
        "Namespace",
        "Node",
        "ServiceAccount",
        "Gateway",
        "AuthorizationPolicy",
        "PeerAuthentication",
        *CONFIG_KINDS,
        "Service",
        "EndpointSlice",
        "Pod",
    )
    """What it understands, in the order in which loading is cheapest."""

    def __init__(self, facts: MeshFacts | None = None) -> None:
        self.facts = facts or MeshFacts()
        self.inputs = Inputs()
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.authorizations: dict[str, Authorization] = {}
        self.bindings: dict[ObjectKey, Binding] = {}
        """By Service; services that ask for no waypoint are absent."""
        self._pod_wishes: dict[ObjectKey, ObjectKey] = {}
        self._slice_uids: dict[ObjectKey, tuple[str, ...]] = {}
        self._remarks: dict[tuple[str, ObjectKey], tuple[Remark, ...]] = {}
        self._dirty_pods: dict[ObjectKey, None] = {}
        self._dirty_services: dict[ObjectKey, None] = {}
        self._dirty_slices: dict[ObjectKey, None] = {}
        self._pending = Pending()
        self._stagers: Mapping[str, Callable[[ObjectKey, KubeObject | None], None]] = {
            "Namespace": self._namespace,
            "Node": self._node,
            "ServiceAccount": self._account,
            "Pod": self._pod,
            "Service": self._service,
            "EndpointSlice": self._slice,
            "AuthorizationPolicy": self._policy,
            "PeerAuthentication": self._peer_authentication,
            "Gateway": self._gateway,
        }

    # In.

    def apply(self, kind: str, obj: KubeObject) -> Changes:
        """Take in one object (new or changed); what changed by it."""
        self.stage(kind, obj)
        return self.settle()

    def remove(self, kind: str, namespace: str, name: str) -> Changes:
        """Forget one object; what changed by that."""
        self.stage_removal(kind, ObjectKey(namespace, name))
        return self.settle()

    def load(self, found: Mapping[str, Iterable[KubeObject]]) -> Changes:
        """Take in whole lists by kind, such as a command line has just read them."""
        for kind in self.KINDS:
            for obj in found.get(kind, ()):
                self.stage(kind, obj)
        return self.settle()

    def stage(self, kind: str, obj: KubeObject) -> None:
        """Take in one object without translating yet. Kinds not in KINDS are ignored."""
        self._stage(kind, key_of(obj), obj)

    def stage_removal(self, kind: str, key: ObjectKey) -> None:
        """Forget one object without translating yet."""
        self._stage(kind, key, None)

    def settle(self) -> Changes:
        """Translate what the staged objects can influence; what changed since the last time."""
        for key in self._dirty_services:
            self._translate_service(key)
        for key in self._dirty_pods:
            self._translate_pod(key)
        for key in self._dirty_slices:
            self._translate_slice(key)
        self._dirty_services, self._dirty_pods, self._dirty_slices = {}, {}, {}
        if self._pending.targets_may_differ:
            self._check_targets()
        pending, self._pending = self._pending, Pending()
        return pending.changes()

    # Out, besides the dictionaries.

    def configs_for_waypoint(self, namespace: str, name: str) -> dict[str, ConfigObject]:
        """The L7 objects that this waypoint needs, by resource name."""
        waypoint = ObjectKey(namespace, name)
        return waypoint_configs.needed(
            waypoint, self.services_using(waypoint), self.inputs.configs.values(), self.facts
        )

    def services_using(self, waypoint: ObjectKey) -> frozenset[ObjectKey]:
        """The Services that are bound to this waypoint."""
        return frozenset(
            key
            for key, binding in self.bindings.items()
            if binding.gateway == waypoint and binding.address is not None
        )

    def ready_instances(self, gateway: ObjectKey) -> int:
        """How many ready pods this Gateway has."""
        return sum(pod.ready for pod in self.inputs.pods.by("gateway", gateway))

    def remarks(self) -> tuple[Remark, ...]:
        """All remarks about the objects as they are now."""
        return tuple(one for several in self._remarks.values() for one in several)

    # Staging: note the object and mark what depends on it.

    def _stage(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        self._remark(kind, key, ())
        try:
            if kind in CONFIG_KINDS:
                self._config(kind, key, obj)
            elif kind in self._stagers:
                self._stagers[kind](key, obj)
        except ObjectError as error:
            # What cannot be read is as if it were not there; security policies see to themselves.
            self._remark(kind, key, (error.reason,), error.hint)
            if kind in CONFIG_KINDS:
                self._config(kind, key, None)
            else:
                self._stagers[kind](key, None)

    def _namespace(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.Namespace) if obj is not None else None
        old = self.inputs.namespaces.put(key, new)
        self._pending.namespaces.add(key.name)
        if said(old) != said(new):
            self._mark_namespace(key.name)

    def _node(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.Node) if obj is not None else None
        old = self.inputs.nodes.put(key, new)
        if pods.locality(old) != pods.locality(new):
            self._dirty_pods |= dict.fromkeys(self.inputs.pods.keys_by("node", key.name))
            self._dirty_slices |= dict.fromkeys(self.inputs.slices.keys_by("node", key.name))

    def _account(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.ServiceAccount) if obj is not None else None
        self.inputs.accounts.put(key, new)

    def _pod(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.Pod) if obj is not None else None
        old = self.inputs.pods.put(key, new)
        self._dirty_pods[key] = None
        for pod in (old, new):
            gateway = pod.metadata.label(objects.GATEWAY_NAME_LABEL) if pod is not None else None
            if gateway:
                self._pending.gateways.add(ObjectKey(key.namespace, gateway))

    def _service(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.Service) if obj is not None else None
        old = self.inputs.services.put(key, new)
        self._dirty_services[key] = None
        for service in (old, new):
            if service is None:
                continue
            if service.spec.selector:
                self._mark_pods(key.namespace, service.spec.selector)
            gateway = service.metadata.label(objects.GATEWAY_NAME_LABEL)
            if gateway:
                self._pending.gateways.add(ObjectKey(key.namespace, gateway))
        for slice_ in self.inputs.slices.keys_by("service", key):
            self._mark_slice(slice_)

    def _slice(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.EndpointSlice) if obj is not None else None
        self._mark_slice(key)
        self.inputs.slices.put(key, new)
        self._mark_slice(key)

    def _policy(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new: objects.AuthorizationPolicy | None = None
        translation = policies.Translation(None)
        if obj is not None:
            try:
                new = objects.decode(obj, objects.AuthorizationPolicy)
                translation = policies.translate(new, self.facts.root_namespace)
            except ObjectError as error:
                new = unreadable_policy(key, obj)
                translation = policies.Translation(
                    policies.refusal(key, new.spec.selector, self.facts.root_namespace),
                    (f"{error.reason}: nothing is allowed where the policy applies",),
                )
        self._remark("AuthorizationPolicy", key, translation.remarks)
        self._pending.targeted |= new is not None and bool(new.spec.targets)
        old = self.inputs.policies.put(key, new)
        self._put_authorization(str(key), translation.authorization)
        self._put_config(
            "AuthorizationPolicy", key, obj if new is not None and new.spec.targets else None
        )
        for policy in (old, new):
            if policy is not None and policy.spec.selector is not None:
                everywhere = key.namespace == self.facts.root_namespace
                self._mark_pods(
                    None if everywhere else key.namespace, policy.spec.selector.match_labels
                )

    def _peer_authentication(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new: objects.PeerAuthentication | None = None
        if obj is not None:
            try:
                new = objects.decode(obj, objects.PeerAuthentication)
                self._remark("PeerAuthentication", key, peer_authentication.remarks(new))
            except ObjectError as error:
                new = unreadable_peer_authentication(key, obj)
                self._remark("PeerAuthentication", key, (f"{error.reason}: taken as STRICT",))
        table = self.inputs.peer_authentications
        old = table.put(key, new)
        if old == new:
            return
        root = self.facts.root_namespace
        static = peer_authentication.static_strict(root)
        self._put_authorization(static.key, static if len(table) else None)
        # What a namespace inherits decides what its own policies convert to.
        changed = (
            tuple(table) if key.namespace == root else table.keys_by("namespace", key.namespace)
        )
        for other in (key, *changed):
            self._convert(other)
        self._mark_pods(None if key.namespace == root else key.namespace, None)

    def _convert(self, key: ObjectKey) -> None:
        policy = self.inputs.peer_authentications.get(key)
        result = None
        if policy is not None and peer_authentication.has_selector(policy):
            result = peer_authentication.converted(policy, self.inherited_strict(key.namespace))
        name = f"{key.namespace}/{peer_authentication.CONVERTED_PREFIX}{key.name}"
        self._put_authorization(name, result)

    def _gateway(self, key: ObjectKey, obj: KubeObject | None) -> None:
        new = objects.decode(obj, objects.Gateway) if obj is not None else None
        old = self.inputs.gateways.put(key, new)
        self._pending.gateways.add(key)
        if self._offer(old) == self._offer(new):
            return
        for service, binding in self.bindings.items():
            if binding.gateway == key:
                self._dirty_services[service] = None
        self._dirty_pods |= {pod: None for pod, asked in self._pod_wishes.items() if asked == key}
        self._dirty_pods |= dict.fromkeys(self.inputs.pods.keys_by("gateway", key))

    def _offer(self, gateway: objects.Gateway | None) -> Any:
        """What others see of a Gateway."""
        if gateway is None:
            return None
        return waypoints.waypoint_of(gateway, self.facts), waypoints.inbound_binding(gateway)

    def _config(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        self._put_config(kind, key, obj)

    def _mark_namespace(self, name: str) -> None:
        self._dirty_pods |= dict.fromkeys(self.inputs.pods.keys_by("namespace", name))
        self._dirty_services |= dict.fromkeys(self.inputs.services.keys_by("namespace", name))

    def _mark_pods(self, namespace: str | None, selector: dict[str, str] | None) -> None:
        """Mark the selected pods of one namespace, or (None) of all."""
        table = self.inputs.pods
        keys = tuple(table) if namespace is None else table.keys_by("namespace", namespace)
        for key in keys:
            pod = table.get(key)
            if pod is not None and objects.selects(selector, pod.metadata.labels):
                self._dirty_pods[key] = None

    def _mark_slice(self, key: ObjectKey) -> None:
        slice_ = self.inputs.slices.get(key)
        self._dirty_slices[key] = None
        if slice_ is None:
            return
        named = endpoint_slices.service_of(slice_)
        service = self.inputs.services.get(named) if named is not None else None
        # Pods of a service with a selector are found by it, readiness by their own status.
        if service is None or not service.spec.selector:
            self._dirty_pods |= dict.fromkeys(endpoint_slices.pods_of(slice_))

    # Translating.

    def _translate_service(self, key: ObjectKey) -> None:
        service = self.inputs.services.get(key)
        name = f"{key.namespace}/{self.facts.hostname(key)}"
        binding = waypoints.UNBOUND
        result = None
        if service is not None and services.is_in_mesh(service):
            binding = self._bind(service.metadata, Traffic.SERVICE)
            namespace = self.inputs.namespaces.get(ObjectKey("", key.namespace))
            result = services.translate(service, namespace, binding.address, self.facts)
        if self.bindings.get(key, waypoints.UNBOUND) != binding:
            self._pending.bindings = True
        if binding.gateway is not None:
            self.bindings[key] = binding
        else:
            self.bindings.pop(key, None)
        if replace(self.services, name, result):
            self._pending.addresses.add(name)

    def _translate_pod(self, key: ObjectKey) -> None:
        pod = self.inputs.pods.get(key)
        name = f"{self.facts.cluster_id}//Pod/{key.namespace}/{key.name}"
        binding = waypoints.UNBOUND
        result = None
        if pod is not None and pods.is_in_mesh(pod):
            binding = self._bind(pod.metadata, Traffic.WORKLOAD)
            around = pods.Surroundings(
                node=self.inputs.nodes.get(ObjectKey("", pod.spec.node_name)),
                services=self._memberships(pod),
                waypoint=binding.address,
                application_tunnel=self._application_tunnel(pod),
                policies=self._policies_of(pod),
            )
            result = pods.translate(pod, around, self.facts)
        if binding.gateway is not None:
            self._pod_wishes[key] = binding.gateway
        else:
            self._pod_wishes.pop(key, None)
        self._put_workload(name, result)

    def _translate_slice(self, key: ObjectKey) -> None:
        slice_ = self.inputs.slices.get(key)
        found = {}
        if slice_ is not None:
            named = endpoint_slices.service_of(slice_)
            service = self.inputs.services.get(named) if named is not None else None
            if service is not None and services.is_in_mesh(service):
                found = {
                    one.uid: one
                    for one in endpoint_slices.translate(slice_, service, self._node_of, self.facts)
                }
        for uid in {*self._slice_uids.pop(key, ()), *found}:
            self._put_workload(uid, found.get(uid))
        if found:
            self._slice_uids[key] = tuple(found)

    def _node_of(self, name: str) -> objects.Node | None:
        return self.inputs.nodes.get(ObjectKey("", name))

    def _bind(self, metadata: objects.Metadata, traffic: Traffic) -> Binding:
        if waypoints.is_instance(metadata):
            return waypoints.UNBOUND
        namespace = self.inputs.namespace_metadata(metadata.namespace)
        asked = waypoints.wish(metadata.labels, namespace, metadata.namespace)
        gateway = self.inputs.gateways.get(asked.gateway) if asked is not None else None
        offered = waypoints.waypoint_of(gateway, self.facts) if gateway is not None else None
        return waypoints.bind(asked, traffic, offered, namespace)

    def _application_tunnel(self, pod: objects.Pod) -> Any:
        name = pod.metadata.label(objects.GATEWAY_NAME_LABEL)
        if not name:
            return None
        return waypoints.inbound_binding(
            self.inputs.gateways.get(ObjectKey(pod.metadata.namespace, name))
        )

    def _memberships(self, pod: objects.Pod) -> dict[NamespacedHostname, tuple[Port, ...]]:
        namespace = pod.metadata.namespace
        in_mesh = filter(services.is_in_mesh, self.inputs.services.by("namespace", namespace))
        found = pods.memberships(pod, in_mesh, self.facts)
        for slice_ in self.inputs.slices.by("pod", ObjectKey(namespace, pod.metadata.name)):
            named = endpoint_slices.service_of(slice_)
            service = self.inputs.services.get(named) if named is not None else None
            if service is None or service.spec.selector or not services.is_in_mesh(service):
                continue
            ports = endpoint_slices.membership(pod, slice_, service)
            if ports is not None:
                found[services.service_key(service, self.facts)] = ports
        return dict(sorted(found.items()))

    def _policies_of(self, pod: objects.Pod) -> tuple[str, ...]:
        root = self.facts.root_namespace
        labels, namespace = pod.metadata.labels, pod.metadata.namespace
        keys = [
            f"{policy.metadata.namespace}/{policy.metadata.name}"
            for where in dict.fromkeys((namespace, root))
            for policy in self.inputs.policies.by("selecting", where)
            if f"{policy.metadata.namespace}/{policy.metadata.name}" in self.authorizations
            and policy.spec.selector is not None
            and objects.selects(policy.spec.selector.match_labels, labels)
        ]
        own = peer_authentication.oldest(
            one
            for one in self.inputs.peer_authentications.by("namespace", namespace)
            if peer_authentication.has_selector(one)
            and one.spec.selector is not None
            and objects.selects(one.spec.selector.match_labels, labels)
        )
        strict = peer_authentication.policy_key(own, self.inherited_strict(namespace), root)
        return (*sorted(keys), *([strict] if strict else ()))

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

    def _check_targets(self) -> None:
        """Remark on policies that no waypoint enforces; each remark is news only once."""
        for key in self.inputs.policies.keys_by("targeting", True):
            policy = self.inputs.policies.get(key)
            assert policy is not None
            found = targets.unenforced(
                policy, self.inputs, self.bindings, self.facts.root_namespace
            )
            made = tuple(Remark("AuthorizationPolicy", key, text) for text in found)
            if made != self._remarks.get(("AuthorizationPolicy", key), ()):
                self._remark("AuthorizationPolicy", key, (one.text for one in made))

    # Results: store, compare, note the key.

    def _put_workload(self, uid: str, new: Workload | None) -> None:
        old = self.workloads.get(uid)
        if not replace(self.workloads, uid, new):
            return
        only_labels = (
            old is not None
            and new is not None
            and msgspec.structs.replace(old, labels=new.labels) == new
        )
        (self._pending.labels if only_labels else self._pending.addresses).add(uid)

    def _put_authorization(self, name: str, new: Authorization | None) -> None:
        if replace(self.authorizations, name, new):
            self._pending.authorizations.add(name)

    def _put_config(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        new = config_object(kind, key, obj) if obj is not None else None
        name = f"{kind}/{key.namespace}/{key.name}"
        if replace(self.inputs.configs, name, new):
            self._pending.configs.add(name)

    def _remark(self, kind: str, key: ObjectKey, texts: Iterable[str], hint: str = "") -> None:
        made = tuple(Remark(kind, key, text, hint) for text in texts)
        if made:
            self._remarks[kind, key] = made
        else:
            self._remarks.pop((kind, key), None)
        self._pending.remarks += made
