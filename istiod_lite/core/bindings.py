"""Who is bound to which waypoint, and who only asked for it; found from both ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.waypoints import UNBOUND, Binding


class Bindings:
    """One Binding an object; objects that ask for no waypoint are absent."""

    def __init__(self) -> None:
        self._bindings: dict[ObjectRef, Binding] = {}
        self._asked: dict[ObjectRef, frozenset[ObjectKey]] = {}
        self._asking: defaultdict[ObjectKey, dict[ObjectRef, None]] = defaultdict(dict)

    def get(self, ref: ObjectRef) -> Binding:
        """The outcome for an object."""
        return self._bindings.get(ref, UNBOUND)

    def put(
        self, ref: ObjectRef, binding: Binding, also: frozenset[ObjectKey] = frozenset()
    ) -> Binding:
        """Store the outcome, which also depends on these Gateways; returns the one before."""
        old = self._bindings.pop(ref, UNBOUND)
        for gateway in self._asked.pop(ref, frozenset()):
            self._asking[gateway].pop(ref, None)
            if not self._asking[gateway]:
                del self._asking[gateway]
        if binding.asked:
            self._bindings[ref] = binding
        asked = also.union(binding.asked)
        for gateway in asked:
            self._asking[gateway][ref] = None
        if asked:
            self._asked[ref] = asked
        return old

    def asking(self, gateway: ObjectKey) -> tuple[ObjectRef, ...]:
        """Everybody whose outcome depends on this Gateway."""
        return tuple(self._asking.get(gateway, ()))

    def bound(self, gateway: ObjectKey) -> Iterator[ObjectRef]:
        """Those whose traffic goes through it."""
        return (ref for ref in self._asking.get(gateway, ()) if gateway in self.get(ref).gateways)

    def items(self) -> Iterator[tuple[ObjectRef, Binding]]:
        """All of them."""
        return iter(self._bindings.items())
