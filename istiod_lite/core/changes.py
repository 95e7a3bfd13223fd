"""What an object changed: keys of resources, and remarks for its author."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from istiod_lite.core.facts import ObjectKey, ObjectRef


class Remark(NamedTuple):
    """Something that the author of an object should know."""

    kind: str
    key: ObjectKey
    text: str
    hint: str = ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Resource keys whose value is new, different or gone."""

    addresses: frozenset[str] = frozenset()
    """Workload uids and ``namespace/hostname`` of services."""
    labels: frozenset[str] = frozenset()
    """Workloads of which only the labels changed, which only waypoints see."""
    authorizations: frozenset[str] = frozenset()
    configs: frozenset[str] = frozenset()
    gateways: frozenset[ObjectKey] = frozenset()
    """Gateways to look at: they or something in their status changed."""
    waypoints: frozenset[ObjectKey] = frozenset()
    """Waypoints that need other configuration objects than before."""
    credentials: frozenset[ObjectKey] = frozenset()
    """Waypoints that get other credentials than before."""
    namespaces: frozenset[str] = frozenset()
    statuses: frozenset[ObjectRef] = frozenset()
    """Objects whose status has to be compared with the one that they should have."""
    labelled_services: frozenset[ObjectKey] = frozenset()
    """Services that are new, gone, or have other labels: other clusters may know them now, or not
    any more."""
    entries: frozenset[ObjectKey] = frozenset()
    """ServiceEntries that changed: their virtual addresses may have to."""
    remarks: tuple[Remark, ...] = ()


class Pending:
    """Changes in the making."""

    def __init__(self) -> None:
        self.configs: set[str] = set()
        self.gateways: set[ObjectKey] = set()
        self.waypoints: set[ObjectKey] = set()
        self.credentials: set[ObjectKey] = set()
        self.namespaces: set[str] = set()
        self.statuses: set[ObjectRef] = set()
        self.labelled_services: set[ObjectKey] = set()
        self.entries: set[ObjectKey] = set()
        self.remarks: dict[tuple[str, ObjectKey], tuple[Remark, ...]] = {}

    def take(self, addresses: set[str], labels: set[str], authorizations: set[str]) -> Changes:
        """What it all came to, with the resources that differ; nothing is pending after that."""
        sets = (
            self.configs,
            self.gateways,
            self.waypoints,
            self.credentials,
            self.namespaces,
            self.statuses,
            self.labelled_services,
            self.entries,
        )
        changes = Changes(
            addresses=frozenset(addresses),
            labels=frozenset(labels),
            authorizations=frozenset(authorizations),
            configs=frozenset(self.configs),
            gateways=frozenset(self.gateways),
            waypoints=frozenset(self.waypoints),
            credentials=frozenset(self.credentials),
            namespaces=frozenset(self.namespaces),
            statuses=frozenset(self.statuses),
            labelled_services=frozenset(self.labelled_services),
            entries=frozenset(self.entries),
            remarks=tuple(one for several in self.remarks.values() for one in several),
        )
        for one in (*sets, self.remarks):
            one.clear()
        return changes


class Results(dict[str, Any]):
    """A table of results that knows which of them differ from the last time it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, Any] = {}

    def put(self, key: str, new: Any) -> bool:
        """Store or (None) delete; whether that changed anything."""
        old = self.get(key)
        if old == new:
            return False
        self._before.setdefault(key, old)
        if new is None:
            del self[key]
        else:
            self[key] = new
        return True

    def take_changes(self) -> dict[str, Any]:
        """Keys that changed since the last call, with the value that they had then."""
        before, self._before = self._before, {}
        return {key: old for key, old in before.items() if old != self.get(key)}
