"""What an object changed: keys of resources, and remarks for its author."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from istiod_lite.core.facts import ObjectKey


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
    """Gateways to look at: they changed, or the number of their ready instances did."""
    namespaces: frozenset[str] = frozenset()
    bindings: bool = False
    """Some service changed its waypoint: what waypoints need may differ."""
    remarks: tuple[Remark, ...] = ()


class Pending:
    """Changes in the making."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.labels: set[str] = set()
        self.authorizations: set[str] = set()
        self.configs: set[str] = set()
        self.gateways: set[ObjectKey] = set()
        self.namespaces: set[str] = set()
        self.bindings = False
        self.targeted = False
        self.remarks: list[Remark] = []

    @property
    def targets_may_differ(self) -> bool:
        """Whether a policy's targets may have got or lost their waypoint."""
        return bool(self.targeted or self.configs or self.bindings or self.gateways)

    def changes(self) -> Changes:
        """What it all came to."""
        return Changes(
            addresses=frozenset(self.addresses),
            labels=frozenset(self.labels - self.addresses),
            authorizations=frozenset(self.authorizations),
            configs=frozenset(self.configs),
            gateways=frozenset(self.gateways),
            namespaces=frozenset(self.namespaces),
            bindings=self.bindings,
            remarks=tuple(self.remarks),
        )


def replace(table: dict[str, Any], key: str, new: Any) -> bool:
    """Store or (None) delete; whether that changed anything."""
    if table.get(key) == new:
        return False
    if new is None:
        del table[key]
    else:
        table[key] = new
    return True
