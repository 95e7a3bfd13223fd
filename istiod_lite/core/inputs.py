"""The Kubernetes objects that the index knows, and the ways to find them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from ambient.api.config import ConfigObject
from ambient.kube.core import objects
from ambient.kube.core.backend_policy_objects import BackendPolicy
from ambient.kube.core.networking_objects import ServiceEntry, WorkloadEntry, WorkloadGroup
from ambient.kube.core.resources import KubeObject
from ambient.kube.core.route_objects import ReferenceGrant, Route, RouteParent
from istiod_lite.core.endpoint_slices import pods_of, service_of
from istiod_lite.core.facts import ObjectKey, ObjectRef

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

ROUTE_KINDS: Final = ("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute")
BACKEND_POLICY_KINDS: Final = ("BackendTLSPolicy", "XBackendTrafficPolicy")
CONFIG_KINDS: Final = ("VirtualService", "DestinationRule", *ROUTE_KINDS, *BACKEND_POLICY_KINDS)
"""Kinds that go to waypoints as they are; AuthorizationPolicy may go there too."""
TARGETED_KINDS: Final = ("RequestAuthentication", "Telemetry", "EnvoyFilter")
"""Kinds that go where they are attached; a Telemetry without targets, to its namespace."""
NETWORK_LABEL: Final = "topology.istio.io/network"


class Table(Generic[K, T]):
    """Objects of one kind by key, with secondary indexes that follow every change."""

    def __init__(self, **indexes: Callable[[T], Iterable[Hashable]]) -> None:
        self._items: dict[K, T] = {}
        self._functions = indexes
        self._indexes: dict[str, dict[Hashable, dict[K, None]]] = {
            name: defaultdict(dict) for name in indexes
        }

    def get(self, key: K) -> T | None:
        """The object of this name."""
        return self._items.get(key)

    def put(self, key: K, item: T | None) -> T | None:
        """Replace or (None) remove; returns what was there."""
        old = self._items.pop(key, None)
        if item is not None:
            self._items[key] = item
        for name, values_of in self._functions.items():
            index = self._indexes[name]
            before = set(values_of(old)) if old is not None else set()
            after = dict.fromkeys(values_of(item)) if item is not None else {}
            for value in before - after.keys():
                keys = index[value]
                del keys[key]
                if not keys:
                    del index[value]
            for value in after:
                if value not in before:
                    index[value][key] = None
        return old

    def keys_by(self, index: str, value: Hashable) -> tuple[K, ...]:
        """Keys of the objects for which the index function gave this value."""
        return tuple(self._indexes[index].get(value, ()))

    def count_by(self, index: str, value: Hashable) -> int:
        """How many there are."""
        return len(self._indexes[index].get(value, ()))

    def values_of(self, index: str) -> tuple[Hashable, ...]:
        """All values that the index function has given."""
        return tuple(self._indexes[index])

    def by(self, index: str, value: Hashable) -> Iterator[T]:
        """The objects themselves."""
        return (self._items[key] for key in self._indexes[index].get(value, ()))

    def __iter__(self) -> Iterator[K]:
        """All keys, as of a dictionary."""
        return iter(tuple(self._items))

    def values(self) -> Iterable[T]:
        """All objects."""
        return self._items.values()

    def __len__(self) -> int:
        return len(self._items)


class Inputs:
    """One table a kind."""

    def __init__(self) -> None:
        self.namespaces: Table[ObjectKey, objects.Namespace] = Table()
        self.nodes: Table[ObjectKey, objects.Node] = Table()
        self.accounts: Table[ObjectKey, objects.ServiceAccount] = Table()
        self.pods: Table[ObjectKey, objects.Pod] = Table(
            namespace=_namespace,
            node=lambda pod: (pod.spec.node_name,),
            gateway=gateways_of,
            labels=lambda pod: pairs(pod.metadata.namespace, pod.metadata.labels),
        )
        self.services: Table[ObjectKey, objects.Service] = Table(
            namespace=_namespace,
            selecting=lambda service: (
                anchor(service.metadata.namespace, service.spec.selector)
                if service.spec.selector
                else ()
            ),
        )
        self.slices: Table[ObjectKey, objects.EndpointSlice] = Table(
            service=lambda slice_: filter(None, (service_of(slice_),)),
            pod=pods_of,
            node=lambda slice_: {one.node_name for one in slice_.endpoints or ()},
        )
        self.policies: Table[ObjectKey, objects.AuthorizationPolicy] = Table(
            selecting=lambda policy: (
                anchor(policy.metadata.namespace, policy.spec.selector.match_labels)
                if policy.spec.selector is not None and not policy.spec.targets
                else ()
            ),
            target=targets_of,
        )
        self.targeted: Table[ObjectRef, objects.TargetedPolicy] = Table(target=targets_of)
        self.peer_authentications: Table[ObjectKey, objects.PeerAuthentication] = Table(
            namespace=_namespace
        )
        self.gateways: Table[ObjectKey, objects.Gateway] = Table(
            namespace=_namespace,
            class_=lambda gateway: (gateway.spec.gateway_class_name,),
            network=lambda gateway: filter(None, (gateway.metadata.label(NETWORK_LABEL),)),
        )
        self.gateway_classes: Table[ObjectKey, objects.GatewayClass] = Table()
        self.service_entries: Table[ObjectKey, ServiceEntry] = Table(
            namespace=_namespace,
            selecting=lambda entry: (
                anchor(entry.metadata.namespace, entry.selector) if entry.selector else ()
            ),
            network=lambda entry: {one.network for one in entry.spec.endpoints or ()} - {""},
        )
        self.workload_entries: Table[ObjectKey, WorkloadEntry] = Table(
            namespace=_namespace,
            network=lambda entry: filter(None, (entry.spec.network,)),
            labels=lambda entry: pairs(entry.metadata.namespace, entry.labels),
            node=lambda entry: filter(None, (entry.metadata.annotation(objects.NODE_ANNOTATION),)),
        )
        self.workload_groups: Table[ObjectKey, WorkloadGroup] = Table()
        self.routes: Table[ObjectRef, Route] = Table(
            parent=parents_of,
            backend=backends_of,
            namespace=_namespace,
            backend_namespace=lambda route: {ref.key.namespace for ref in backends_of(route)},
        )
        self.grants: Table[ObjectKey, ReferenceGrant] = Table(namespace=_namespace)
        self.backend_policies: Table[ObjectRef, BackendPolicy] = Table(
            target=backend_targets_of, authority=authorities_of
        )
        self.written: dict[str, ConfigObject] = {}
        """Routes and policies of backends as they were written; ``configs`` has them without
        references that are refused, and with the numbers of ports."""
        self.configs: dict[str, ConfigObject] = {}

    def namespace_metadata(self, name: str) -> objects.Metadata | None:
        """Labels and annotations of a namespace, None where it is not known (yet)."""
        namespace = self.namespaces.get(ObjectKey("", name))
        return namespace.metadata if namespace is not None else None


# Finding objects by selector, and selectors by object, without looking at all of them.


def anchor(namespace: str, selector: Mapping[str, str] | None) -> tuple[tuple[str, ...]]:
    """Under which value a selector is found: one of its pairs, or the namespace if it has none."""
    if not selector:
        return ((namespace,),)
    return ((namespace, *min(selector.items())),)


def pairs(namespace: str, labels: Mapping[str, str] | None) -> Iterator[tuple[str, ...]]:
    """Each label, of one namespace."""
    return ((namespace, name, value) for name, value in (labels or {}).items())


def anchors(namespace: str, labels: Mapping[str, str] | None) -> Iterator[tuple[str, ...]]:
    """All values under which a selector may be found that selects these labels."""
    yield (namespace,)
    yield from pairs(namespace, labels)


def rarest(
    table: Table[Any, Any], namespace: str, selector: Mapping[str, str] | None
) -> tuple[Any, ...]:
    """Keys in ``namespace`` that the selector may select: by its pair that fewest have."""
    if not selector:
        return table.keys_by("namespace", namespace)
    pair = min(pairs(namespace, selector), key=lambda one: (table.count_by("labels", one), one))
    return table.keys_by("labels", pair)


# What objects refer to.


def gateways_of(pod: objects.Pod) -> tuple[ObjectKey, ...]:
    """The Gateway of which this pod is an instance."""
    name = pod.metadata.label(objects.GATEWAY_NAME_LABEL)
    return (ObjectKey(pod.metadata.namespace, name),) if name else ()


def target_ref(policy: objects.Metadata, target: objects.PolicyTargetReference) -> ObjectRef:
    """The object that a policy targets; always one of its own namespace."""
    where = "" if target.kind == "GatewayClass" else policy.namespace
    return ObjectRef(target.kind, ObjectKey(where, target.name))


def targets_of(
    policy: objects.AuthorizationPolicy | objects.TargetedPolicy,
) -> Iterator[ObjectRef]:
    """All objects that a policy targets."""
    return (target_ref(policy.metadata, one) for one in policy.spec.targets)


def backend_targets_of(policy: BackendPolicy) -> Iterator[ObjectRef]:
    """All objects that a policy of backends is for."""
    for target in policy.spec.target_refs or ():
        yield ObjectRef(target.kind, ObjectKey(policy.metadata.namespace, target.name))


def authorities_of(policy: BackendPolicy) -> Iterator[ObjectRef]:
    """The objects whose certificate authorities a BackendTLSPolicy believes."""
    for ref in policy.spec.validation.ca_certificate_refs or ():
        yield ObjectRef(ref.kind, ObjectKey(policy.metadata.namespace, ref.name))


def parents_of(route: Route) -> Iterator[ObjectRef]:
    """All objects that a route hangs on."""
    return (parent_ref(route, one) for one in route.spec.parent_refs or ())


def parent_ref(route: Route, parent: RouteParent) -> ObjectRef:
    """The object that one of a route's parents means."""
    return ObjectRef(
        parent.kind, ObjectKey(parent.namespace or route.metadata.namespace, parent.name)
    )


def backends_of(route: Route) -> Iterator[ObjectRef]:
    """All objects that the route's rules lead to."""
    for rule in route.spec.rules or ():
        for _, ref in rule.references:
            # A hostname is the same in every namespace.
            where = "" if ref.kind == "Hostname" else ref.namespace or route.metadata.namespace
            yield ObjectRef(ref.kind, ObjectKey(where, ref.name))


def _namespace(item: Any) -> tuple[str]:
    return (item.metadata.namespace,)


# Objects that are kept although they cannot be read.


def config_object(kind: str, key: ObjectKey, obj: KubeObject) -> ConfigObject:
    """An object as waypoints get it: without status, and without what changes with every write.

    Raises ObjectError if it has no usable frame.
    """
    metadata = objects.decode(obj.get("metadata") or {}, objects.Metadata)
    raw: dict[str, Any] = obj["metadata"]
    kept = {name: raw[name] for name in _KEPT_METADATA if name in raw}
    body = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return ConfigObject(
        api_version=str(obj.get("apiVersion", "")),
        kind=kind,
        namespace=key.namespace,
        name=key.name,
        generation=metadata.generation,
        object={**body, "metadata": kept},
    )


_KEPT_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "generation",
    "creationTimestamp",
    "labels",
    "annotations",
)


def key_of(obj: KubeObject) -> ObjectKey:
    """Namespace and name, also of an object that is malformed elsewhere."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        return ObjectKey("", "")
    return ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


def _selector_of(obj: KubeObject) -> objects.LabelSelector | None:
    """The selector of an object that is malformed elsewhere; None (everything) if that is too."""
    try:
        return msgspec.convert(obj["spec"]["selector"], objects.LabelSelector)
    except (msgspec.ValidationError, KeyError, TypeError):
        return None


def unreadable_policy(key: ObjectKey, obj: KubeObject) -> objects.AuthorizationPolicy:
    """What is left of a policy that cannot be read: its name and whom it selects."""
    return objects.AuthorizationPolicy(
        metadata=objects.Metadata(name=key.name, namespace=key.namespace),
        spec=objects.AuthorizationPolicySpec(selector=_selector_of(obj)),
    )


def unreadable_peer_authentication(key: ObjectKey, obj: KubeObject) -> objects.PeerAuthentication:
    """What cannot be read asks for STRICT."""
    return objects.PeerAuthentication(
        metadata=objects.Metadata(name=key.name, namespace=key.namespace),
        spec=objects.PeerAuthenticationSpec(
            selector=_selector_of(obj), mtls=objects.MutualTls(mode="STRICT")
        ),
    )


def said(namespace: objects.Namespace | None) -> Any:
    """What a namespace says about its objects."""
    if namespace is None:
        return None
    return namespace.metadata.labels or {}, namespace.metadata.annotations or {}
