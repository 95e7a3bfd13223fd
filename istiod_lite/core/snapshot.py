"""What proxies are sent, encoded once: immutable, so that many threads may read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar

import msgspec

from ambient.api.service import NamespacedHostname, Service
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, WORKLOAD_TYPE
from ambient.api.workload import Workload
from ambient.kube.core import objects
from ambient.xds.core import wire
from ambient.xds.core.delta_server import Sent
from istiod_lite.core.changes import Changes
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.federation import Federation
from istiod_lite.core.index import Index

K = TypeVar("K")
T = TypeVar("T")


def content_version(body: bytes) -> str:
    """The same on every replica and after every restart."""
    return blake2b(body, digest_size=8).hexdigest()


def sent(name: str, body: bytes, aliases: tuple[str, ...] = ()) -> Sent:
    """A resource whose version is its content."""
    return Sent(name, content_version(body), body, aliases)


class AddressEntry:
    """A workload or service in the forms that different clients read; each is made when needed."""

    def __init__(self, name: str, value: Workload | Service) -> None:
        self.name = name
        self.value = value

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        """``network/ip`` of each address."""
        if isinstance(self.value, Workload):
            return tuple(f"{self.value.network}/{ip}" for ip in self.value.addresses)
        return tuple(f"{one.network}/{one.ip}" for one in self.value.addresses)

    @cached_property
    def plain(self) -> Sent:
        """For node tunnels."""
        return sent(self.name, wire.encode(self.value)[1], self.aliases)

    @cached_property
    def labelled(self) -> Sent:
        """For waypoints, which choose subsets by label."""
        return sent(self.name, wire.encode(self.value, labels=True)[1], self.aliases)

    @cached_property
    def bare(self) -> Sent:
        """A workload without the wrapper that both kinds share."""
        return sent(self.name, wire.encode(self.value, bare_workload=True)[1], self.aliases)


class Delta(msgspec.Struct, frozen=True):
    """Names by type URL; ``labelled`` are addresses that differ only for waypoints."""

    names: Mapping[str, frozenset[str]] = {}
    labelled: frozenset[str] = frozenset()

    def merged(self, other: Delta) -> Delta:
        """Both, for a client that has not taken the first one yet."""
        types = {*self.names, *other.names}
        empty: frozenset[str] = frozenset()
        return Delta(
            {url: self.names.get(url, empty) | other.names.get(url, empty) for url in types},
            self.labelled | other.labelled,
        )


class Snapshot:
    """All resources at one moment; made by ``advance``, never changed afterwards."""

    def __init__(
        self,
        number: int = 0,
        addresses: Mapping[str, AddressEntry] | None = None,
        authorizations: Mapping[str, Sent] | None = None,
        configs: Mapping[ObjectKey, Mapping[str, Sent]] | None = None,
        credentials: Mapping[ObjectKey, Mapping[str, Sent]] | None = None,
    ) -> None:
        self.number = number
        self.addresses = addresses or {}
        self.authorizations = authorizations or {}
        self.configs = configs or {}
        """What each waypoint needs, by Gateway."""
        self.credentials = credentials or {}
        """Likewise, of Secrets."""

    @cached_property
    def workload_names(self) -> Collection[str]:
        """Names of workloads without services."""
        return {
            name: None for name, one in self.addresses.items() if isinstance(one.value, Workload)
        }.keys()

    @cached_property
    def by_alias(self) -> Mapping[str, tuple[str, ...]]:
        """``network/ip`` to names; an address may belong to several workloads."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name, entry in self.addresses.items():
            for alias in entry.aliases:
                found[alias].append(name)
        return {alias: tuple(names) for alias, names in found.items()}

    @cached_property
    def members(self) -> Mapping[NamespacedHostname, tuple[str, ...]]:
        """Workloads of each service."""
        found: defaultdict[NamespacedHostname, list[str]] = defaultdict(list)
        for name, entry in self.addresses.items():
            if isinstance(entry.value, Workload):
                for service in entry.value.services:
                    found[service].append(name)
        return {service: tuple(names) for service, names in found.items()}

    @cached_property
    def by_node(self) -> Mapping[str, tuple[str, ...]]:
        """Workloads of each node."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name, entry in self.addresses.items():
            if isinstance(entry.value, Workload) and entry.value.node:
                found[entry.value.node].append(name)
        return {node: tuple(names) for node, names in found.items()}

    def gateway_of(self, uid: str) -> ObjectKey | None:
        """The waypoint of which this workload is an instance."""
        entry = self.addresses.get(uid)
        if entry is None or not isinstance(entry.value, Workload):
            return None
        name = entry.value.labels.get(objects.GATEWAY_NAME_LABEL)
        return ObjectKey(entry.value.namespace, name) if name else None


class AddressSource:
    """Addresses as one client sees them."""

    def __init__(self, snapshot: Snapshot, *, labels: bool, node: str) -> None:
        self._snapshot = snapshot
        self._labels = labels
        self._node = node

    def names(self) -> Collection[str]:
        """Workload uids and service names."""
        return self._snapshot.addresses.keys()

    def get(self, name: str) -> Sent | None:
        """One of them."""
        entry = self._snapshot.addresses.get(name)
        if entry is None:
            return None
        return entry.labelled if self._labels else entry.plain

    def find(self, name: str) -> Iterable[str]:
        """A uid; ``network/ip``; ``namespace/hostname``: services come with their workloads."""
        snapshot = self._snapshot
        direct = (name,) if name in snapshot.addresses else ()
        for found in direct or snapshot.by_alias.get(name, ()):
            yield found
            value = snapshot.addresses[found].value
            if isinstance(value, Service):
                yield from snapshot.members.get(value.key, ())

    def unasked(self) -> Iterable[str]:
        """The workloads of the client's own node."""
        return self._snapshot.by_node.get(self._node, ())


class WorkloadSource(AddressSource):
    """Workloads alone."""

    def names(self) -> Collection[str]:
        """Workload uids."""
        return self._snapshot.workload_names

    def get(self, name: str) -> Sent | None:
        """One workload."""
        entry = self._snapshot.addresses.get(name)
        return entry.bare if entry is not None and isinstance(entry.value, Workload) else None


class MapSource:
    """Resources without aliases."""

    def __init__(self, resources: Mapping[str, Sent]) -> None:
        self._resources = resources

    def names(self) -> Collection[str]:
        """All names."""
        return self._resources.keys()

    def get(self, name: str) -> Sent | None:
        """One of them."""
        return self._resources.get(name)

    def find(self, name: str) -> Iterable[str]:
        """Only itself."""
        return (name,) if name in self._resources else ()

    def unasked(self) -> Iterable[str]:
        """Nothing."""
        return ()


class Publisher:
    """Keeps the encoded form in step with the index."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._configs: dict[str, Sent] = {}

    def advance(self, index: Index | Federation, changes: Changes) -> Delta:
        """Make the next snapshot of what changed; the names that clients have to be told."""
        old = self.snapshot
        addresses = dict(old.addresses)
        workloads, services = index.workloads, index.services
        for name in changes.addresses | changes.labels:
            value = workloads.get(name) or services.get(name)
            _put(addresses, name, AddressEntry(name, value) if value is not None else None)
        authorizations = dict(old.authorizations)
        for name in changes.authorizations:
            policy = index.authorizations.get(name)
            _put(authorizations, name, _encoded(name, policy) if policy is not None else None)
        for name in changes.configs:
            config = index.inputs.configs.get(name)
            _put(self._configs, name, _encoded(name, config) if config is not None else None)
        configs = dict(old.configs)
        for key in changes.waypoints:
            needed = index.configs_for_waypoint(key.namespace, key.name)
            _put(configs, key, {name: self._configs[name] for name in needed} or None)
        credentials = dict(old.credentials)
        for key in changes.credentials:
            held = index.credentials_for_waypoint(key.namespace, key.name)
            made = {name: _encoded(name, one) for name, one in held.items()}
            _put(credentials, key, made or None)
        self.snapshot = Snapshot(old.number + 1, addresses, authorizations, configs, credentials)
        names = {
            ADDRESS_TYPE: changes.addresses,
            WORKLOAD_TYPE: changes.addresses,
            AUTHORIZATION_TYPE: changes.authorizations,
            # Which of them concern a waypoint its stream finds out by comparing.
            CONFIG_TYPE: changes.configs,
        }
        return Delta(names, changes.labels)


def _encoded(name: str, value: wire.Resource) -> Sent:
    return sent(name, wire.encode(value)[1])


def _put(table: dict[K, T], key: K, value: T | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
