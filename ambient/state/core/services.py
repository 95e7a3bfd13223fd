"""The services of the mesh by name and by address, and the endpoints behind each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ambient.api.address import NetworkAddress
from ambient.api.policy import IPNetwork
from ambient.api.service import NamespacedHostname, Port, Service, Visibility
from ambient.api.workload import Workload


class Endpoint(NamedTuple):
    """A workload behind a service, with the ports that it serves there."""

    workload: Workload
    ports: tuple[Port, ...]


class _Range(NamedTuple):
    cidr: IPNetwork
    key: NamespacedHostname


class Services:
    """Look-ups answer the same whatever the order of the updates was.

    Endpoints come from the workloads and are kept for services that are not known (yet), too.
    """

    def __init__(self) -> None:
        self._by_key: dict[NamespacedHostname, Service] = {}
        self._by_address: dict[NetworkAddress, tuple[NamespacedHostname, ...]] = {}
        self._by_hostname: dict[str, tuple[NamespacedHostname, ...]] = {}
        self._ranges: dict[str, tuple[_Range, ...]] = {}
        self._endpoints: dict[NamespacedHostname, dict[str, Endpoint]] = {}
        self._sorted: dict[NamespacedHostname, tuple[Endpoint, ...]] = {}

    def __iter__(self) -> Iterator[Service]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: NamespacedHostname) -> Service | None:
        """The service of this name."""
        return self._by_key.get(key)

    def put(self, service: Service) -> Service | None:
        """Insert or replace; the replaced one comes back. Endpoints stay."""
        old = self.remove(service.key)
        self._by_key[service.key] = service
        for address in dict.fromkeys(service.addresses):
            found = self._by_address.get(address, ())
            self._by_address[address] = tuple(sorted((*found, service.key)))
        for span in dict.fromkeys(service.ranges):
            ranges = (*self._ranges.get(span.network, ()), _Range(span.cidr, service.key))
            self._ranges[span.network] = tuple(
                sorted(ranges, key=lambda r: (-r.cidr.prefixlen, str(r.cidr), r.key))
            )
        names = self._by_hostname.get(service.hostname, ())
        self._by_hostname[service.hostname] = tuple(sorted((*names, service.key)))
        return old

    def remove(self, key: NamespacedHostname) -> Service | None:
        """Forget one; None where it was not known."""
        old = self._by_key.pop(key, None)
        if old is None:
            return None
        for address in dict.fromkeys(old.addresses):
            rest = tuple(other for other in self._by_address[address] if other != key)
            if rest:
                self._by_address[address] = rest
            else:
                del self._by_address[address]
        for network in {span.network for span in old.ranges}:
            left = tuple(span for span in self._ranges[network] if span.key != key)
            if left:
                self._ranges[network] = left
            else:
                del self._ranges[network]
        names = tuple(other for other in self._by_hostname[old.hostname] if other != key)
        if names:
            self._by_hostname[old.hostname] = names
        else:
            del self._by_hostname[old.hostname]
        return old

    def at(self, address: NetworkAddress, client_namespace: str) -> Service | None:
        """By virtual address: an exact one first, else the longest range that contains it."""
        exact = self._visible(self._by_address.get(address, ()), client_namespace)
        if exact:
            return _best(exact, client_namespace)
        inside = [r for r in self._ranges.get(address.network, ()) if address.ip in r.cidr]
        visible = [
            (span.cidr.prefixlen, service)
            for span in inside
            for service in self._visible((span.key,), client_namespace)
        ]
        if not visible:
            return None
        # Upstream ranks the client's own namespace before the length of the prefix.
        own = [pair for pair in visible if pair[1].namespace == client_namespace] or visible
        longest = max(length for length, _ in own)
        return _best([service for length, service in own if length == longest], client_namespace)

    def named(self, hostname: str, client_namespace: str) -> Service | None:
        """By hostname, as a client of this namespace sees it."""
        found = self.visible(hostname, client_namespace)
        return _best(found, client_namespace) if found else None

    def visible(self, hostname: str, client_namespace: str) -> list[Service]:
        """Every service of this hostname that a client of this namespace sees."""
        return self._visible(self._by_hostname.get(hostname, ()), client_namespace)

    def endpoints(self, key: NamespacedHostname) -> tuple[Endpoint, ...]:
        """Every workload that says it belongs to the service, healthy or not, by uid."""
        known = self._sorted.get(key)
        if known is None:
            members = self._endpoints.get(key, {})
            known = tuple(members[uid] for uid in sorted(members))
            if members:
                self._sorted[key] = known
        return known

    def move(self, old: Workload | None, new: Workload | None) -> frozenset[NamespacedHostname]:
        """A workload changed (or came, or went); returns the services whose endpoints did."""
        touched = (old.services.keys() if old else set()) | (new.services.keys() if new else set())
        for key in touched:
            self._sorted.pop(key, None)
            members = self._endpoints.setdefault(key, {})
            if new is not None and key in new.services:
                members[new.uid] = Endpoint(new, new.services[key])
            elif old is not None:
                members.pop(old.uid, None)
            if not members:
                del self._endpoints[key]
        return frozenset(touched)

    def _visible(self, keys: Iterable[NamespacedHostname], namespace: str) -> list[Service]:
        services = (self._by_key[key] for key in keys)
        return [
            s for s in services if s.visibility is Visibility.PUBLIC or s.namespace == namespace
        ]


def _best(services: list[Service], client_namespace: str) -> Service:
    """The client's own namespace, then the canonical one, then the first by name."""
    return min(services, key=lambda s: (s.namespace != client_namespace, not s.canonical, s.key))
