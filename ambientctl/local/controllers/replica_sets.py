"""ReplicaSet: so many pods of one template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import PODS, REPLICA_SETS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of
from ambientctl.local.controllers.pods import (
    is_active,
    is_ready,
    owner_keys,
    phase,
    pod_from,
    pods_of,
)

NAME: Final = "replicaset-controller"


def decide(replica_set: Object, pods: Sequence[Object]) -> list[Command]:
    """Make the pods that lack, delete those too many, and tell the status.

    ``pods`` are the ones that the ReplicaSet manages, finished and terminating ones included.
    """
    commands: list[Command] = []
    active = [pod for pod in pods if is_active(pod)]
    wanted = replica_set["spec"]["replicas"]
    if not replica_set["metadata"].get("deletionTimestamp"):
        commands += [Create(PODS, pod_from(replica_set))] * (wanted - len(active))
        surplus = sorted(active, key=_worth)[: max(len(active) - wanted, 0)]
        commands += [_delete(pod) for pod in surplus]
    status = _status(replica_set, active)
    if status != replica_set.get("status"):
        commands.append(Replace(REPLICA_SETS, {**replica_set, "status": status}, "status"))
    return commands


def _worth(pod: Object) -> tuple[bool, bool, bool, str]:
    """Sorts the pods whose loss hurts least to the front; of equals the youngest."""
    created = pod["metadata"]["creationTimestamp"]
    youngest_first = "".join(chr(0x10FFFF - ord(char)) for char in created)
    return (
        bool(pod["spec"].get("nodeName")),
        phase(pod) == "Running",
        is_ready(pod),
        youngest_first,
    )


def _delete(pod: Object) -> Delete:
    return Delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])


def _status(replica_set: Object, active: Sequence[Object]) -> Object:
    """Ready counts as available: minReadySeconds is not waited for."""
    template = replica_set["spec"]["template"]
    labels = ((template.get("metadata") or {}).get("labels") or {}).items()
    ready = sum(is_ready(pod) for pod in active)
    counts = {
        "fullyLabeledReplicas": sum(
            labels <= (pod["metadata"].get("labels") or {}).items() for pod in active
        ),
        "readyReplicas": ready,
        "availableReplicas": ready,
    }
    # Zero counts are left out, as the Go types leave them out.
    return {
        "replicas": len(active),
        **{name: count for name, count in counts.items() if count},
        "observedGeneration": replica_set["metadata"]["generation"],
    }


def _keys(_cluster: Cluster, change: Change) -> Iterable[Key]:
    return [key_of(change)] if change.key == REPLICA_SETS else owner_keys(change, "ReplicaSet")


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    replica_set = cluster.store.get(REPLICA_SETS, *key)
    return decide(replica_set, pods_of(cluster.store, replica_set)) if replica_set else ()


CONTROLLER: Final = Controller(NAME, (REPLICA_SETS, PODS), _keys, _look)
