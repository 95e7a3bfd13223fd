"""The shape of an L4 rule (istio.security.Authorization); evaluation is in ``ambient.policy``."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

import msgspec

IPNetwork = IPv4Network | IPv6Network


class Scope(IntEnum):
    """Wire numbers of istio.security.Scope."""

    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


class Action(IntEnum):
    """Wire numbers of istio.security.Action."""

    ALLOW = 0
    DENY = 1


class MatchKind(IntEnum):
    """How a StringMatch compares."""

    EXACT = 0
    PREFIX = 1
    SUFFIX = 2
    PRESENCE = 3


class StringMatch(NamedTuple):
    """A comparison with a string; PRESENCE matches any non-empty value."""

    kind: MatchKind
    value: str = ""


class ServiceAccountMatch(NamedTuple):
    """A service account of a namespace, exactly."""

    namespace: str
    service_account: str


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that is set has to match; the values of one field are OR-ed.

    A match without any field set never matches.
    """

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[IPNetwork, ...] = ()
    not_source_ips: tuple[IPNetwork, ...] = ()
    destination_ips: tuple[IPNetwork, ...] = ()
    not_destination_ips: tuple[IPNetwork, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


Clause = tuple[Match, ...]
"""OR-ed matches (wire: Rules)."""
Group = tuple[Clause, ...]
"""AND-ed clauses (wire: Group); an empty group matches everything."""


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """An L4 policy; ``groups`` are OR-ed and an empty tuple never matches."""

    name: str
    namespace: str
    scope: Scope
    action: Action
    groups: tuple[Group, ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``: the xDS resource name, and what workloads refer to."""
        return f"{self.namespace}/{self.name}"
