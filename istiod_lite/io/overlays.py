"""ConfigMaps that say how waypoints are run: defaults of a class, and those that Gateways name."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ambient.kube.core.resources import CONFIG_MAPS, KubeObject
from ambient.kube.core.watch import EventKind, WatchEvent
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.inputs import key_of
from istiod_lite.core.waypoint_parameters import DEFAULTS_LABEL

Events = trio.MemoryReceiveChannel[WatchEvent]


class Overlays:
    """Follows only what is referred to: a cluster's ConfigMaps may be many and large."""

    def __init__(
        self,
        kube: KubeClient,
        system_namespace: str,
        changed: Callable[[ObjectKey | None], None],
    ) -> None:
        """``changed`` gets the ConfigMap that a Gateway named, None for defaults of a class."""
        self._kube = kube
        self._system_namespace = system_namespace
        self._changed = changed
        self._defaults: dict[ObjectKey, KubeObject] = {}
        self._named: dict[ObjectKey, KubeObject] = {}
        self._listed: dict[ObjectKey, trio.Event] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once the defaults are known."""
        synced = trio.Event()
        self._listed.clear()
        self._named.clear()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            events = follow(
                self._kube,
                CONFIG_MAPS,
                namespace=self._system_namespace,
                label_selector=DEFAULTS_LABEL,
            )
            nursery.start_soon(self._follow_defaults, events, synced)
            await synced.wait()
            task_status.started()
            await trio.sleep_forever()

    def defaults(self, class_name: str) -> list[KubeObject]:
        """The ConfigMaps with defaults of a class, by name."""
        return [
            found
            for _, found in sorted(self._defaults.items(), key=lambda pair: pair[0])
            if found["metadata"].get("labels", {}).get(DEFAULTS_LABEL) == class_name
        ]

    async def named(self, key: ObjectKey) -> KubeObject | None:
        """A ConfigMap that a Gateway names, None where there is none; followed from now on."""
        assert self._nursery is not None
        if key not in self._listed:
            self._listed[key] = trio.Event()
            events = follow(
                self._kube,
                CONFIG_MAPS,
                namespace=key.namespace,
                field_selector=f"metadata.name={key.name}",
            )
            self._nursery.start_soon(self._follow_named, key, events)
        await self._listed[key].wait()
        return self._named.get(key)

    async def _follow_defaults(self, events: Events, synced: trio.Event) -> None:
        async with events:
            async for event in events:
                match event.kind:
                    case EventKind.SYNCED:
                        synced.set()
                        continue
                    case EventKind.DELETED:
                        self._defaults.pop(key_of(event.object), None)
                    case _:
                        self._defaults[key_of(event.object)] = event.object
                if synced.is_set():
                    self._changed(None)

    async def _follow_named(self, key: ObjectKey, events: Events) -> None:
        async with events:
            async for event in events:
                match event.kind:
                    case EventKind.SYNCED:
                        self._listed[key].set()
                        continue
                    case EventKind.DELETED:
                        self._named.pop(key, None)
                    case _:
                        self._named[key] = event.object
                if self._listed[key].is_set():
                    self._changed(key)
