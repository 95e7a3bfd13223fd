"""The same hostname several times: which object speaks for it where, and which one everywhere.

In a namespace a Kubernetes Service wins, else the oldest ServiceEntry. In the mesh the winner is
``canonical``: a Kubernetes Service if any, else the oldest ServiceEntry that all namespaces see.
"""

from __future__ import annotations

from typing import NamedTuple

from istiod_lite.core.facts import ObjectRef


class Claim(NamedTuple):
    """One object's claim to a hostname. Sorts by precedence."""

    outside: bool
    """Not a Kubernetes Service."""
    age: tuple[str, str, str]
    """Creation time, then namespace and name, so that there is always one winner."""
    ref: ObjectRef
    private: bool = False
    """Only its own namespace sees it."""


class Standing(NamedTuple):
    """The outcome for one hostname."""

    winners: frozenset[ObjectRef] = frozenset()
    """One for each namespace."""
    canonical: ObjectRef | None = None


class Hosts:
    """Claims by hostname, and the objects that every change of one concerns."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[ObjectRef, Claim]] = {}
        self._hosts_of: dict[ObjectRef, tuple[str, ...]] = {}
        self._standings: dict[str, Standing] = {}
        self._dirty: dict[str, None] = {}

    def put(self, ref: ObjectRef, hosts: tuple[str, ...], claim: Claim | None) -> None:
        """The object claims these hosts and (from now on) no others; None claims nothing."""
        old = self._hosts_of.pop(ref, ())
        for host in old:
            if host not in hosts or self._claims[host].get(ref) != claim:
                self._dirty[host] = None
            self._claims[host].pop(ref, None)
        if claim is None:
            return
        self._hosts_of[ref] = hosts
        for host in hosts:
            self._claims.setdefault(host, {})[ref] = claim
            if host not in old:
                self._dirty[host] = None

    def settle(self) -> tuple[set[ObjectRef], tuple[str, ...]]:
        """Decide what is open; the objects for which something changed, and the hosts."""
        changed: set[ObjectRef] = set()
        for host in self._dirty:
            claims = self._claims.get(host)
            before = self._standings.pop(host, Standing())
            after = _decide(claims) if claims else Standing()
            if claims:
                self._standings[host] = after
            else:
                self._claims.pop(host, None)
            changed |= before.winners ^ after.winners
            if before.canonical != after.canonical:
                changed |= {one for one in (before.canonical, after.canonical) if one is not None}
        hosts = tuple(self._dirty)
        self._dirty = {}
        return changed, hosts

    def wins(self, ref: ObjectRef, host: str) -> bool:
        """Whether the object speaks for the hostname in its namespace."""
        return ref in self._standings.get(host, Standing()).winners

    def speakers(self, host: str) -> frozenset[ObjectRef]:
        """Everybody who does so somewhere."""
        return self._standings.get(host, Standing()).winners

    def of(self, ref: ObjectRef) -> list[str]:
        """The hostnames for which an object speaks."""
        return [host for host in self._hosts_of.get(ref, ()) if self.wins(ref, host)]

    def winner(self, namespace: str, host: str) -> ObjectRef | None:
        """Who speaks for the hostname in a namespace."""
        winners = self._standings.get(host, Standing()).winners
        return next((one for one in winners if one.key.namespace == namespace), None)

    def canonical(self, host: str) -> ObjectRef | None:
        """Who speaks for it in the whole mesh."""
        return self._standings.get(host, Standing()).canonical


def _decide(claims: dict[ObjectRef, Claim]) -> Standing:
    winners: dict[str, ObjectRef] = {}
    canonical = None
    for claim in sorted(claims.values()):
        winners.setdefault(claim.ref.key.namespace, claim.ref)
        if canonical is None and not claim.private:
            canonical = claim.ref
    return Standing(frozenset(winners.values()), canonical)
