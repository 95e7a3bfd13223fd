"""Virtual addresses for hosts of ServiceEntries that bring none of their own.

What was given stands in the entries' status; this is only the memory of it. Addresses that users
wrote win over ours, and of two entries with the same address the older one keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NamedTuple

from ambient.api.address import IPAddress, parse_ip
from ambient.api.policy import IPNetwork
from ambient.kube.core.networking_objects import AssignedAddress, ServiceEntry
from istiod_lite.core import service_entries
from istiod_lite.core.facts import ObjectKey

RANGES: Final[tuple[IPNetwork, ...]] = (
    IPv4Network("240.240.0.0/16"),
    IPv6Network("2001:2::/48"),
)
"""Never routed on the Internet (Istio's choice, pilot/pkg/controllers/ipallocate)."""

Addresses = tuple[AssignedAddress, ...]


class _Claim(NamedTuple):
    """An entry that has an address in its status, or will. Sorts by age."""

    age: tuple[str, str, str]
    key: ObjectKey
    host: str


class AddressPool:
    """``wanted`` says what an entry's status should hold; ``put`` says whom to ask about."""

    def __init__(self, ranges: Iterable[IPNetwork] = RANGES) -> None:
        self._ranges = tuple(ranges)
        self._next = dict.fromkeys(self._ranges, 1)
        self._entries: dict[ObjectKey, ServiceEntry] = {}
        self._claims: defaultdict[IPAddress, set[_Claim]] = defaultdict(set)
        self._own: defaultdict[ObjectKey, set[tuple[IPAddress, _Claim]]] = defaultdict(set)
        self._given: dict[ObjectKey, Addresses] = {}
        """What was given last, also if no status says so yet."""
        self._taken: defaultdict[ObjectKey, tuple[IPNetwork, ...]] = defaultdict(tuple)
        """What users wrote, as far as it lies in our ranges."""

    def put(self, key: ObjectKey, entry: ServiceEntry | None) -> set[ObjectKey]:
        """An entry is new, different or (None) gone; the entries that may have to change."""
        asked = {key}
        self._forget(key)
        self._taken.pop(key, None)
        self._entries.pop(key, None)
        if entry is None:
            self._given.pop(key, None)
            return asked
        self._entries[key] = entry
        hosts = service_entries.hosts_of(entry)
        for one in (*(entry.status.addresses or ()), *self._given.get(key, ())):
            ip = parse_ip(one.value)
            if ip is not None and one.host in hosts and service_entries.allocates(entry, one.host):
                self._claim(_Claim(entry.metadata.age_order, key, one.host), ip)
                asked |= {other.key for other in self._claims[ip]}
        written = map(service_entries.network, entry.spec.addresses or ())
        taken = tuple(one for one in written if one is not None and self._is_ours(one))
        if taken:
            self._taken[key] = taken
            for ip, claims in self._claims.items():
                if any(ip in span for span in taken):
                    asked |= {one.key for one in claims}
        return asked

    def wanted(self, key: ObjectKey) -> Addresses | None:
        """The addresses of an entry, some of them perhaps new; None for one that is gone.

        What is new counts as given from now on. A range without free addresses gives none.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        found: list[AssignedAddress] = []
        claimed = frozenset(self._own.get(key, ()))
        for host in service_entries.hosts_of(entry):
            if service_entries.allocates(entry, host):
                claim = _Claim(entry.metadata.age_order, key, host)
                found += self._of_host(claim, claimed)
        self._given[key] = tuple(found)
        return tuple(found)

    def _of_host(
        self, claim: _Claim, claimed: frozenset[tuple[IPAddress, _Claim]]
    ) -> Iterator[AssignedAddress]:
        """One address of each range: the one that the host has, if nobody has a better claim."""
        for span in self._ranges:
            kept = [
                ip for ip, one in claimed if ip in span and one == claim and self._keeps(claim, ip)
            ]
            ip = min(kept, key=int) if kept else self._free(span)
            if ip is not None:
                self._claim(claim, ip)
                yield AssignedAddress(value=str(ip), host=claim.host)

    def _keeps(self, claim: _Claim, ip: IPAddress) -> bool:
        return min(self._claims[ip]) == claim and not self._is_taken(ip)

    def _free(self, span: IPNetwork) -> IPAddress | None:
        """The next address in order that nobody has; None after a whole round."""
        most = min(span.num_addresses, 2**20)
        for _ in range(most):
            offset = self._next[span]
            self._next[span] = offset + 1 if offset + 2 < span.num_addresses else 1
            ip = span.network_address + offset
            if not self._claims.get(ip) and not self._is_taken(ip):
                return ip
        return None

    def _is_taken(self, ip: IPAddress) -> bool:
        return any(ip in one for spans in self._taken.values() for one in spans)

    def _is_ours(self, written: IPNetwork) -> bool:
        return any(
            written.version == one.version and written.overlaps(ip_network(one))
            for one in self._ranges
        )

    def _claim(self, claim: _Claim, ip: IPAddress) -> None:
        self._claims[ip].add(claim)
        self._own[claim.key].add((ip, claim))

    def _forget(self, key: ObjectKey) -> None:
        for ip, claim in self._own.pop(key, ()):
            self._claims[ip].discard(claim)
            if not self._claims[ip]:
                del self._claims[ip]
