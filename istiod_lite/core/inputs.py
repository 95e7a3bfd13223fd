"""The Kubernetes objects that the index knows, and the ways to find them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

from ambient.api.config import ConfigObject
from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.endpoint_slices import pods_of, service_of
from istiod_lite.core.facts import ObjectKey

T = TypeVar("T")

CONFIG_KINDS: Final = ("VirtualService", "DestinationRule", "HTTPRoute")
"""Kinds that go to waypoints as they are; AuthorizationPolicy may go there too."""


class Table(Generic[T]):
    """Objects of one kind by key, with secondary indexes that follow every change."""

    def __init__(self, **indexes: Callable[[T], Iterable[Hashable]]) -> None:
        self._items: dict[ObjectKey, T] = {}
        self._functions = indexes
        self._indexes: dict[str, defaultdict[Hashable, dict[ObjectKey, None]]] = {
            name: defaultdict(dict) for name in indexes
        }

    def get(self, key: ObjectKey) -> T | None:
        """The object of this name."""
        return self._items.get(key)

    def put(self, key: ObjectKey, item: T | None) -> T | None:
        """Replace or (None) remove; returns what was there."""
        old = self._items.pop(key, None)
        if old is not None:
            for name, values_of in self._functions.items():
                for value in values_of(old):
                    keys = self._indexes[name][value]
                    keys.pop(key, None)
                    if not keys:
                        del self._indexes[name][value]
        if item is not None:
            self._items[key] = item
            for name, values_of in self._functions.items():
                for value in values_of(item):
                    self._indexes[name][value][key] = None
        return old

    def keys_by(self, index: str, value: Hashable) -> tuple[ObjectKey, ...]:
        """Keys of the objects for which the index function gave this value."""
        return tuple(self._indexes[index].get(value, ()))

    def by(self, index: str, value: Hashable) -> Iterator[T]:
        """The objects themselves."""
        return (self._items[key] for key in self._indexes[index].get(value, ()))

    def __iter__(self) -> Iterator[ObjectKey]:
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
        self.namespaces: Table[objects.Namespace] = Table()
        self.nodes: Table[objects.Node] = Table()
        self.accounts: Table[objects.ServiceAccount] = Table()
        self.pods: Table[objects.Pod] = Table(
            namespace=lambda pod: (pod.metadata.namespace,),
            node=lambda pod: (pod.spec.node_name,),
            gateway=_gateway_of,
        )
        self.services: Table[objects.Service] = Table(
            namespace=lambda service: (service.metadata.namespace,)
        )
        self.slices: Table[objects.EndpointSlice] = Table(
            service=lambda slice_: filter(None, (service_of(slice_),)),
            pod=pods_of,
            node=lambda slice_: {one.node_name for one in slice_.endpoints or ()},
        )
        self.policies: Table[objects.AuthorizationPolicy] = Table(
            selecting=lambda policy: (
                (policy.metadata.namespace,)
                if policy.spec.selector is not None and not policy.spec.targets
                else ()
            ),
            targeting=lambda policy: (True,) if policy.spec.targets else (),
        )
        self.peer_authentications: Table[objects.PeerAuthentication] = Table(
            namespace=lambda policy: (policy.metadata.namespace,)
        )
        self.gateways: Table[objects.Gateway] = Table()
        self.configs: dict[str, ConfigObject] = {}

    def namespace_metadata(self, name: str) -> objects.Metadata | None:
        """Labels and annotations of a namespace, None where it is not known (yet)."""
        namespace = self.namespaces.get(ObjectKey("", name))
        return namespace.metadata if namespace is not None else None


def config_object(kind: str, key: ObjectKey, obj: KubeObject) -> ConfigObject:
    """An object as waypoints get it. Raises ObjectError if it has no usable frame."""
    metadata = objects.decode(obj.get("metadata") or {}, objects.Metadata)
    return ConfigObject(
        api_version=str(obj.get("apiVersion", "")),
        kind=kind,
        namespace=key.namespace,
        name=key.name,
        generation=metadata.generation,
        object=obj,
    )


def key_of(obj: KubeObject) -> ObjectKey:
    """Namespace and name, also of an object that is malformed elsewhere."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        return ObjectKey("", "")
    return ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


def _gateway_of(pod: objects.Pod) -> tuple[ObjectKey, ...]:
    """The waypoint of which this pod is an instance."""
    name = pod.metadata.label(objects.GATEWAY_NAME_LABEL)
    return (ObjectKey(pod.metadata.namespace, name),) if name else ()


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
