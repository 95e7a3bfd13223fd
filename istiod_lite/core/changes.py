"""What an object changed: keys of resources, and remarks for its author."""

from __future__ import annotations

from typing import NamedTuple

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
        self.remarks: list[Remark] = []

    def changes(self) -> Changes:
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
