"""Secrets and ConfigMaps that DestinationRules name, each followed by its name alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core import resources
from ambient.kube.core.errors import KubeError
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from istiod_lite.core import root_secret
from istiod_lite.core.credentials import ABSENT, UNREADABLE, Held, forbidden
from istiod_lite.core.facts import ObjectRef
from istiod_lite.core.index import Index

ANSWER_S: Final = 5.0
"""What the API server has not told by then counts as unreadable, until it does."""
FORBIDDEN: Final = 403
RESOURCES: Final = {one.kind: one for one in (resources.SECRETS, resources.CONFIG_MAPS)}


class CredentialWatch:
    """Keeps the index told; ``noted`` is called when it was."""

    def __init__(self, kube: KubeClient, index: Index, noted: Callable[[], None]) -> None:
        self._kube = kube
        self._index = index
        self._noted = noted
        self._wanted: frozenset[ObjectRef] = frozenset()
        self._changed = trio.Event()

    def look_at(self, wanted: frozenset[ObjectRef]) -> None:
        """Follow these, and no others any more."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        scopes: dict[ObjectRef, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for ref in scopes.keys() - self._wanted:
                    scopes.pop(ref).cancel()
                    self._tell(ref, None)
                for ref in self._wanted - scopes.keys():
                    scopes[ref] = trio.CancelScope()
                    nursery.start_soon(self._follow, ref, scopes[ref])
                await self._changed.wait()

    async def _follow(self, ref: ObjectRef, scope: trio.CancelScope) -> None:
        with scope:
            field = f"metadata.name={ref.key.name}"
            resource = RESOURCES[ref.kind]
            events = follow(self._kube, resource, namespace=ref.key.namespace, field_selector=field)
            found: Held = ABSENT
            patience_s = ANSWER_S
            async with events:
                while True:
                    with trio.move_on_after(patience_s) as late:
                        event = await events.receive()
                    patience_s = math.inf
                    if late.cancelled_caught:
                        self._tell(ref, await self._why(ref))
                        continue
                    if event.kind is not EventKind.SYNCED:
                        gone = event.kind is EventKind.DELETED
                        found = ABSENT if gone else contents(ref.kind, event.object)
                    self._tell(ref, found)

    async def _why(self, ref: ObjectRef) -> str:
        """Why nothing is known of an object."""
        try:
            await self._kube.get(RESOURCES[ref.kind], ref.key.name, ref.key.namespace)
        except KubeError as error:
            if error.status == FORBIDDEN:
                return forbidden(ref, self._index.facts.root_namespace)
        except MeshError:
            pass  # nobody answers
        return UNREADABLE

    def _tell(self, ref: ObjectRef, held: Held | None) -> None:
        self._index.stage_credential(ref, held)
        self._noted()


def contents(kind: str, obj: Mapping[str, Any]) -> Held:
    """The entries of a Secret or ConfigMap, or what is wrong with it."""
    if kind == "ConfigMap":
        data = obj.get("data") or {}
        return {str(name): str(text).encode() for name, text in data.items()}
    try:
        return root_secret.contents(obj)
    except MeshError:
        return "holds data that is not base64"
