"""Endpoints: the older form of EndpointSlices, for the `describe service` of older kubectl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import ENDPOINT_SLICES, StorageKey
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Replace
from ambientctl.local.controllers.endpoint_slices import MANAGED_BY, MANAGER, SERVICE_LABEL
from ambientctl.local.controllers.loop import Controller, Key

NAME: Final = "endpoints-controller"
ENDPOINTS: Final[StorageKey] = ("", "endpoints")


def decide(key: Key, slices: Sequence[Object], present: Object | None) -> list[Command]:
    """The Endpoints of one service as its slices say; gone when the last slice is gone."""
    namespace, name = key
    if not slices:
        return [Delete(ENDPOINTS, namespace, name)] if present is not None else []
    subsets = [subset for found in slices if (subset := _subset(found))]
    if present is None:
        metadata = {"name": name, "namespace": namespace}
        return [Create(ENDPOINTS, {"metadata": metadata, "subsets": subsets})]
    if subsets == (present.get("subsets") or []):
        return []
    return [Replace(ENDPOINTS, {**present, "subsets": subsets})]


def _subset(found: Object) -> Object | None:
    """One slice as a subset; None for an empty one. Terminating pods have no place here."""
    ready: list[Object] = []
    waiting: list[Object] = []
    for endpoint in found.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        if conditions.get("terminating"):
            continue
        address = {"ip": endpoint["addresses"][0]}
        address |= {k: endpoint[k] for k in ("nodeName", "targetRef") if k in endpoint}
        (ready if conditions.get("ready", True) else waiting).append(address)
    if not ready and not waiting:
        return None
    lists = {"addresses": ready, "notReadyAddresses": waiting}
    ports = found.get("ports") or []
    return {**{name: some for name, some in lists.items() if some}, "ports": ports}


def _service_of(found: Object) -> str:
    """The service of a slice that our controller manages; empty for others."""
    labels = found["metadata"].get("labels") or {}
    return str(labels.get(SERVICE_LABEL, "")) if labels.get(MANAGED_BY) == MANAGER else ""


def _keys(_cluster: Cluster, change: Change) -> Iterable[Key]:
    name = _service_of(change.object)
    return [(change.object["metadata"]["namespace"], name)] if name else []


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    namespace, name = key
    slices = [
        found
        for found in cluster.store.objects(ENDPOINT_SLICES, namespace)
        if _service_of(found) == name
    ]
    return decide(key, slices, cluster.store.get(ENDPOINTS, namespace, name))


CONTROLLER: Final = Controller(NAME, (ENDPOINT_SLICES,), _keys, _look)
