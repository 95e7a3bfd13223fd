"""Garbage collection: what its owners have left behind goes, in the way the deletion asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.deletion import FOREGROUND, ORPHAN, DeleteOptions
from ambientctl.local.apiserver.core.kinds import NODES, PODS, StorageKey
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Delete, Replace
from ambientctl.local.controllers.loop import Controller, Key

NAME: Final = "garbage-collector"

Placed = tuple[StorageKey, Object]
"""An object and where it is stored."""


class Index:
    """Which objects live, and who depends on whom, by uid."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[StorageKey, str, str]] = {}
        self.dependents: dict[str, set[str]] = {}

    def follow(self, change: Change) -> None:
        """Learn from one change."""
        metadata = change.object["metadata"]
        uid = metadata["uid"]
        before = (change.old or {"metadata": {}})["metadata"].get("ownerReferences") or ()
        for owner in before:
            self.dependents.get(owner["uid"], set()).discard(uid)
        if change.kind == "DELETED":
            self.live.pop(uid, None)
            if not self.dependents.get(uid):
                self.dependents.pop(uid, None)
            return
        self.live[uid] = (change.key, metadata.get("namespace", ""), metadata["name"])
        for owner in metadata.get("ownerReferences") or ():
            self.dependents.setdefault(owner["uid"], set()).add(uid)


def decide(placed: Placed, live: frozenset[str], dependents: Sequence[Placed]) -> list[Command]:
    """What to do with one object.

    ``live`` are the uids of its owners that still exist; ``dependents`` name it as their owner.
    """
    resource, obj = placed
    metadata = obj["metadata"]
    finalizers = metadata.get("finalizers") or []
    if metadata.get("deletionTimestamp"):
        if ORPHAN in finalizers:
            freed: list[Command] = [_without_owner(*found, metadata["uid"]) for found in dependents]
            return [*freed, _without_finalizer(resource, obj, ORPHAN)]
        if FOREGROUND in finalizers:
            waiting: list[Command] = [
                _delete(*found, "Foreground")
                for found in dependents
                if not found[1]["metadata"].get("deletionTimestamp")
            ]
            return waiting if dependents else [_without_finalizer(resource, obj, FOREGROUND)]
        return []
    owners = metadata.get("ownerReferences") or []
    if owners and not any(owner["uid"] in live for owner in owners):
        return [_delete(resource, obj, "Background")]
    return []


def _delete(resource: StorageKey, obj: Object, policy: str) -> Delete:
    """Delete this very object: another one of the same name is not meant."""
    metadata = obj["metadata"]
    options = DeleteOptions(policy=policy, uid=metadata["uid"])
    return Delete(resource, metadata.get("namespace", ""), metadata["name"], options)


def _without_finalizer(resource: StorageKey, obj: Object, name: str) -> Replace:
    left = [finalizer for finalizer in obj["metadata"]["finalizers"] if finalizer != name]
    return Replace(resource, {**obj, "metadata": {**obj["metadata"], "finalizers": left}})


def _without_owner(resource: StorageKey, obj: Object, uid: str) -> Replace:
    left = [owner for owner in obj["metadata"]["ownerReferences"] if owner["uid"] != uid]
    return Replace(resource, {**obj, "metadata": {**obj["metadata"], "ownerReferences": left}})


def controller() -> Controller:
    """The controller; its key is ("", uid)."""
    index = Index()

    def place(cluster: Cluster, uid: str) -> Placed | None:
        if (where := index.live.get(uid)) is None:
            return None
        obj = cluster.store.get(*where)
        return (where[0], obj) if obj is not None else None

    def keys(_cluster: Cluster, change: Change) -> Iterable[Key]:
        index.follow(change)
        metadata = change.object["metadata"]
        concerned = [metadata["uid"]]
        if change.kind == "DELETED":
            concerned += sorted(index.dependents.get(metadata["uid"], ()))
            # A foreground deletion waits for its dependents.
            concerned += [owner["uid"] for owner in metadata.get("ownerReferences") or ()]
        elif not metadata.get("ownerReferences") and not metadata.get("deletionTimestamp"):
            return []
        return [("", uid) for uid in concerned]

    def look(cluster: Cluster, key: Key) -> Iterable[Command]:
        _, uid = key
        placed = place(cluster, uid)
        if placed is None:
            return []
        found = [place(cluster, dependent) for dependent in sorted(index.dependents.get(uid, ()))]
        return decide(placed, frozenset(index.live), [entry for entry in found if entry])

    return Controller(NAME, (), keys, look)


def decide_orphaned_pod(pod: Object, node_exists: bool) -> list[Command]:
    """A pod whose node is gone has no kubelet to end it: delete it at once."""
    if node_exists or not pod["spec"].get("nodeName"):
        return []
    metadata = pod["metadata"]
    return [Delete(PODS, metadata["namespace"], metadata["name"], DeleteOptions(grace_s=0))]


def _pod_keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.kind != "DELETED":
        return []
    name = change.object["metadata"]["name"]
    return [
        (pod["metadata"]["namespace"], pod["metadata"]["name"])
        for pod in cluster.store.objects(PODS)
        if pod["spec"].get("nodeName") == name
    ]


def _pod_look(cluster: Cluster, key: Key) -> Iterable[Command]:
    pod = cluster.store.get(PODS, *key)
    if pod is None:
        return ()
    node = cluster.store.get(NODES, "", pod["spec"].get("nodeName", ""))
    return decide_orphaned_pod(pod, node is not None)


POD_CONTROLLER: Final = Controller("pod-garbage-collector", (NODES,), _pod_keys, _pod_look)
