"""Objects in memory, one revision counter, and the recent changes for watchers.

The store owns what it is given: a stored object is never changed in place, so readers may keep
it. A writer makes a new object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from ambientctl.local.apiserver.core.kinds import StorageKey
from ambientctl.local.apiserver.core.status import Object, expired

HISTORY_EVENTS: Final = 4096
"""Changes kept for each resource; a watch from before them gets 410 and lists again."""

Name = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is empty."""


class Change:
    """One change of one object."""

    __slots__ = ("_encoded", "key", "kind", "object", "old", "revision")

    def __init__(
        self, key: StorageKey, kind: str, revision: int, obj: Object, old: Object | None = None
    ) -> None:
        self.key = key
        self.kind = kind
        """ADDED, MODIFIED or DELETED."""
        self.revision = revision
        self.object = obj
        """As it is now; for DELETED as it was, with the revision of the deletion."""
        self.old = old
        """As it was before; None for ADDED."""
        self._encoded: dict[str, bytes] = {}

    def encoded(self, kind: str) -> bytes:
        """The change as one line of a watch; encoded once however many watchers there are."""
        line = self._encoded.get(kind)
        if line is None:
            line = msgspec.json.encode({"type": kind, "object": self.object}) + b"\n"
            self._encoded[kind] = line
        return line


Subscriber = Callable[[Change], None]


class Store:
    """All objects of all resources."""

    def __init__(self) -> None:
        self.revision = 1
        self._objects: dict[StorageKey, dict[Name, Object]] = {}
        self._history: dict[StorageKey, deque[Change]] = {}
        self._forgotten: dict[StorageKey, int] = {}
        self._subscribers: dict[StorageKey | None, dict[int, Subscriber]] = {}
        self._next_subscriber = 0

    def get(self, key: StorageKey, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        return self._objects.get(key, {}).get((namespace, name))

    def objects(self, key: StorageKey, namespace: str = "") -> list[Object]:
        """Objects of one resource by namespace and name; an empty namespace means all."""
        found = self._objects.get(key, {})
        return [found[name] for name in sorted(found) if not namespace or name[0] == namespace]

    def resources(self) -> list[StorageKey]:
        """Resources that have objects."""
        return [key for key, objects in self._objects.items() if objects]

    def put(self, key: StorageKey, obj: Object) -> Object:
        """Store a new object or a new form of one; sets its resourceVersion and tells watchers."""
        metadata = obj["metadata"]
        name = (metadata.get("namespace", ""), metadata["name"])
        objects = self._objects.setdefault(key, {})
        old = objects.get(name)
        self.revision += 1
        obj = {**obj, "metadata": {**metadata, "resourceVersion": str(self.revision)}}
        objects[name] = obj
        self._tell(key, Change(key, "MODIFIED" if old else "ADDED", self.revision, obj, old))
        return obj

    def remove(self, key: StorageKey, namespace: str, name: str) -> Object | None:
        """Forget an object and tell watchers; returns its last form, None when there was none."""
        old = self._objects.get(key, {}).pop((namespace, name), None)
        if old is None:
            return None
        self.revision += 1
        metadata = {**old["metadata"], "resourceVersion": str(self.revision)}
        last = {**old, "metadata": metadata}
        self._tell(key, Change(key, "DELETED", self.revision, last, old))
        return last

    def since(self, key: StorageKey, revision: int) -> Iterator[Change]:
        """Changes after a revision, oldest first; raises a 410 when some are forgotten."""
        oldest = self._forgotten.get(key, 0)
        if revision < oldest or revision > self.revision:
            raise expired(f"too old resource version: {revision} ({self.revision})")
        history = self._history.get(key, ())
        return (change for change in list(history) if change.revision > revision)

    def subscribe(self, key: StorageKey | None, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` at once for every change from now on, until the result is called.

        Without a key it hears of every resource.
        """
        number = self._next_subscriber
        self._next_subscriber += 1
        subscribers = self._subscribers.setdefault(key, {})
        subscribers[number] = subscriber
        return lambda: subscribers.pop(number, None) and None

    def _tell(self, key: StorageKey, change: Change) -> None:
        """Remember a change and pass it on. Subscribers must not write to the store themselves,
        unless they expect to be told of their own write at once.
        """
        history = self._history.setdefault(key, deque())
        history.append(change)
        if len(history) > HISTORY_EVENTS:
            self._forgotten[key] = history.popleft().revision
        for listening in (key, None):
            for subscriber in list(self._subscribers.get(listening, {}).values()):
                subscriber(change)
