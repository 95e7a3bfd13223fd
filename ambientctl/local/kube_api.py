"""What a kubelet needs of the API server, and its view of the objects that pods refer to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import trio

from ambient.kube.core.resources import KubeObject, Resource
from ambient.kube.core.watch import EventKind, WatchEvent


class KubeApi(Protocol):
    """The calls of ``ambient.kube.io.client.KubeClient`` that the local mesh's node parts use.

    Each raises KubeError (NotFound, Conflict) when refused.
    """

    async def get(self, res: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """One object."""

    async def create(self, res: Resource, obj: KubeObject, subresource: str = "") -> KubeObject:
        """Create an object, or post to a subresource."""

    async def patch(
        self,
        res: Resource,
        name: str,
        body: Any,
        *,
        namespace: str | None = None,
        subresource: str = "",
    ) -> KubeObject:
        """JSON merge patch."""

    async def delete(
        self, res: Resource, name: str, namespace: str | None = None, grace_s: int | None = None
    ) -> None:
        """Delete; a grace period of 0 removes a pod from the API at once."""

    def follow(self, res: Resource, *, field_selector: str = "") -> AsyncIterator[WatchEvent]:
        """All namespaces: list, SYNCED, then changes for ever."""


class Objects:
    """The newest state of some kinds, and a bell that rings on every change."""

    def __init__(self, api: KubeApi, *kinds: Resource) -> None:
        self._api = api
        self._kinds = kinds
        self._objects: dict[Resource, dict[tuple[str, str], KubeObject]] = {k: {} for k in kinds}
        self._changed = trio.Event()
        self._unsynced = len(kinds)
        self.synced = trio.Event()

    async def run(self) -> None:
        """Follow all kinds for ever."""
        async with trio.open_nursery() as nursery:
            for kind in self._kinds:
                nursery.start_soon(self._follow, kind)

    async def _follow(self, kind: Resource) -> None:
        known = self._objects[kind]
        async for event in self._api.follow(kind):
            if event.kind is EventKind.SYNCED:
                self._unsynced -= 1
                if not self._unsynced:
                    self.synced.set()
            else:
                metadata = event.object["metadata"]
                key = metadata.get("namespace", ""), metadata["name"]
                if event.kind is EventKind.DELETED:
                    known.pop(key, None)
                else:
                    known[key] = event.object
            self.ring()

    def ring(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    @property
    def changed(self) -> trio.Event:
        """Set at the next change; take it before looking, then wait."""
        return self._changed

    def get(self, kind: Resource, namespace: str, name: str) -> KubeObject | None:
        """One object, or None."""
        return self._objects[kind].get((namespace, name))

    def all(self, kind: Resource) -> Mapping[tuple[str, str], KubeObject]:
        """All objects of a kind by (namespace, name)."""
        return self._objects[kind]
