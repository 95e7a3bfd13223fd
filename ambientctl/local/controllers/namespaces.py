"""Namespaces: what a new one gets, and how a deleted one becomes empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.admission import ROOT_CA_CONFIG_MAP
from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import NAMESPACES, SERVICE_ACCOUNTS, StorageKey
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of

NAME: Final = "namespace-controller"
CONFIG_MAPS: Final[StorageKey] = ("", "configmaps")

Content = tuple[StorageKey, Object]


def decide(namespace: Object, content: Sequence[Content], ca_pem: str) -> list[Command]:
    """Furnish a live namespace; empty a dying one and let it go when nothing is left."""
    name = namespace["metadata"]["name"]
    if namespace["metadata"].get("deletionTimestamp"):
        if content:
            return [
                Delete(resource, name, obj["metadata"]["name"])
                for resource, obj in content
                if not obj["metadata"].get("deletionTimestamp")
            ]
        spec = {**(namespace.get("spec") or {}), "finalizers": []}
        return [Replace(NAMESPACES, {**namespace, "spec": spec})]
    have = {(resource, obj["metadata"]["name"]) for resource, obj in content}
    commands: list[Command] = []
    if (SERVICE_ACCOUNTS, "default") not in have:
        account = {"metadata": {"name": "default", "namespace": name}}
        commands.append(Create(SERVICE_ACCOUNTS, account))
    if (CONFIG_MAPS, ROOT_CA_CONFIG_MAP) not in have:
        metadata = {"name": ROOT_CA_CONFIG_MAP, "namespace": name}
        commands.append(Create(CONFIG_MAPS, {"metadata": metadata, "data": {"ca.crt": ca_pem}}))
    return commands


def controller(ca_pem: str) -> Controller:
    """The controller; ``ca_pem`` is the API server's CA, for every namespace to read."""

    def look(cluster: Cluster, key: Key) -> Iterable[Command]:
        _, name = key
        namespace = cluster.store.get(NAMESPACES, "", name)
        if namespace is None:
            return ()
        content = [
            (resource, obj)
            for resource in cluster.store.resources()
            for obj in cluster.store.objects(resource, name)
        ]
        return decide(namespace, content, ca_pem)

    return Controller(NAME, (), _keys, look)


def _keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.key == NAMESPACES:
        return [key_of(change)]
    name = change.object["metadata"].get("namespace", "")
    namespace = cluster.store.get(NAMESPACES, "", name)
    if namespace is None:
        return []
    furniture = change.key in {SERVICE_ACCOUNTS, CONFIG_MAPS} and change.kind == "DELETED"
    dying = namespace["metadata"].get("deletionTimestamp")
    return [("", name)] if dying or furniture else []
