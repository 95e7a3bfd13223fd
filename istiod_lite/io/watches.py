"""Objects in: one watch a kind, staged as they come, settled once they are quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import trio

from ambient.kube.core import resources
from ambient.kube.core.resources import KubeObject
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import revisions
from istiod_lite.core.changes import Changes
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.core.inputs import key_of
from istiod_lite.core.mesh_config import CONFIG_MAP
from istiod_lite.io.contact import Contact
from istiod_lite.io.debounce import Debounce

WATCHED: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.SERVICE_ACCOUNTS,
    resources.GATEWAY_CLASSES,
    resources.GATEWAYS,
    resources.REFERENCE_GRANTS,
    *resources.BACKEND_POLICIES,
    resources.AUTHORIZATION_POLICIES,
    resources.PEER_AUTHENTICATIONS,
    resources.REQUEST_AUTHENTICATIONS,
    resources.TELEMETRIES,
    resources.ENVOY_FILTERS,
    resources.VIRTUAL_SERVICES,
    resources.DESTINATION_RULES,
    *resources.ROUTES,
    resources.SERVICE_ENTRIES,
    resources.WORKLOAD_GROUPS,
    resources.WORKLOAD_ENTRIES,
    resources.SERVICES,
    resources.ENDPOINT_SLICES,
    resources.PODS,
)
_GROUPS: Final = (
    resources.SECURITY_GROUP,
    resources.NETWORKING_GROUP,
    resources.TELEMETRY_GROUP,
)
REVISIONED: Final = frozenset(
    one.kind
    for one in WATCHED
    if one.group in _GROUPS or one in (*resources.ROUTES, *resources.BACKEND_POLICIES)
)
"""Kinds that a control plane of another revision may have to itself."""
MESH_CONFIG: Final = "MeshConfig"
"""Not a kind of Kubernetes: one ConfigMap of the system namespace."""
assert {MESH_CONFIG, *(one.kind for one in WATCHED)} == set(Index.KINDS)

log = get_logger("index")


class Watches:
    """Keeps the index as the API server is; ``publish`` gets what changed, debounced."""

    def __init__(
        self,
        kube: KubeClient,
        index: Index,
        publish: Callable[[Changes, float], None],
        debounce: Debounce,
        *,
        names: Collection[str] = (revisions.DEFAULT,),
        watched: Collection[resources.Resource] = (),
    ) -> None:
        """``names``: the revision that we are. ``watched``: of another cluster, which has no
        configuration of the mesh; all kinds and that if empty.
        """
        self._kube = kube
        self._index = index
        self._publish = publish
        self._debounce = debounce
        self._names = frozenset(names)
        self._tags: dict[ObjectKey, tuple[str, str]] = {}
        """By Service that stands for a tag: the tag and its revision."""
        self._labelled: dict[str, dict[ObjectKey, KubeObject]] = {one: {} for one in REVISIONED}
        """Objects with a revision label: a tag may make them ours, or not ours any more."""
        self.contact = Contact()
        self.noted: Callable[[str, bool], None] = lambda kind, gone: None
        """Told of every object that is new, different or gone."""
        self._watched = watched or WATCHED
        self._unsynced = {one.kind for one in self._watched}
        if not watched:
            self._unsynced.add(MESH_CONFIG)
        self._all_listed = trio.Event()

    @property
    def missing(self) -> tuple[str, ...]:
        """Kinds that have not been listed yet."""
        return tuple(sorted(self._unsynced))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started once everything was listed and published; then until cancelled."""
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            for resource in self._watched:
                nursery.start_soon(self._follow, resource.kind, resource)
            if MESH_CONFIG in self._unsynced:
                nursery.start_soon(
                    self._follow,
                    MESH_CONFIG,
                    resources.CONFIG_MAPS,
                    self._index.facts.root_namespace,
                    f"metadata.name={CONFIG_MAP}",
                )
            await self._all_listed.wait()
            self._debounce.forget()
            self._publish(self._index.settle(), started)
            log.info(
                Event.INDEX_SYNCED,
                workloads=len(self._index.workloads),
                services=len(self._index.services),
                policies=len(self._index.authorizations),
                seconds=round(time.monotonic() - started, 3),
            )
            task_status.started()
            while True:
                await self._debounce.first()
                first = time.monotonic()
                await self._debounce.quiet()
                self._publish(self._index.settle(), first)

    @property
    def names(self) -> frozenset[str]:
        """Our revision and the tags that point at it."""
        tags = {tag for tag, revision in self._tags.values() if revision in self._names}
        return self._names | tags

    async def _follow(
        self,
        kind: str,
        resource: resources.Resource,
        namespace: str | None = None,
        fields: str = "",
    ) -> None:
        events = follow(
            self._kube,
            resource,
            namespace=namespace,
            field_selector=fields,
            contact=partial(self.contact.report, kind),
        )
        async with events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    self._unsynced.discard(kind)
                    if not self._unsynced:
                        self._all_listed.set()
                    continue
                self._stage(kind, event.object, gone=event.kind is EventKind.DELETED)
                self._debounce.note()

    def _stage(self, kind: str, obj: KubeObject, *, gone: bool) -> None:
        key = key_of(obj)
        self.noted(kind, gone)
        if kind == resources.SERVICES.kind:
            self._note_tag(obj, gone=gone)
        if kind in REVISIONED:
            labels = _labels(obj)
            self._labelled[kind].pop(key, None)
            if labels.get(revisions.LABEL) and not gone:
                self._labelled[kind][key] = obj
            # Another control plane's object is no object here.
            gone = gone or not revisions.reads(labels, self.names)
        if gone:
            self._index.stage_removal(kind, key)
        else:
            self._index.stage(kind, obj)

    def _note_tag(self, service: KubeObject, *, gone: bool) -> None:
        before = self.names
        self._tags.pop(key_of(service), None)
        found = revisions.tag_of(service)
        if found is not None and not gone:
            self._tags[key_of(service)] = found
        if self.names != before:
            for kind, objects in self._labelled.items():
                for obj in list(objects.values()):
                    self._stage(kind, obj, gone=False)


def _labels(obj: KubeObject) -> dict[str, str]:
    """Also of an object that is malformed."""
    metadata = obj.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}
