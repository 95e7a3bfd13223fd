"""The scheduler: a node for every pod that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import NODES, PODS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Bind, Command, Record, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of
from ambientctl.local.controllers.placement import obstacle
from ambientctl.local.controllers.pods import is_active

NAME: Final = "default-scheduler"


def decide(pod: Object, nodes: Sequence[Object], load: Counter[str], now: str) -> list[Command]:
    """Bind the pod to the fitting node with the fewest pods, or say why there is none."""
    obstacles = {node["metadata"]["name"]: obstacle(pod["spec"], node) for node in nodes}
    fitting = [name for name, why in obstacles.items() if not why]
    metadata = pod["metadata"]
    who = f"{metadata['namespace']}/{metadata['name']}"
    if fitting:
        chosen = min(fitting, key=lambda name: (load[name], name))
        message = f"Successfully assigned {who} to {chosen}"
        return [
            Bind(metadata["namespace"], metadata["name"], chosen),
            Record(pod, "Normal", "Scheduled", message, NAME),
        ]
    message = explain(obstacles)
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": now,
    }
    status = pod.get("status") or {}
    known = status.get("conditions") or []
    if any(c.get("type") == "PodScheduled" and c.get("message") == message for c in known):
        return []
    conditions = [*(c for c in known if c.get("type") != "PodScheduled"), condition]
    told = {**pod, "status": {**status, "conditions": conditions}}
    return [
        Replace(PODS, told, "status"),
        Record(pod, "Warning", "FailedScheduling", message, NAME),
    ]


def explain(obstacles: dict[str, str]) -> str:
    """``0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) ...``."""
    if not obstacles:
        return "no nodes available to schedule pods"
    counted = Counter(obstacles.values())
    reasons = ", ".join(f"{count} {why}" for why, count in sorted(counted.items()))
    return f"0/{len(obstacles)} nodes are available: {reasons}."


def _waits(pod: Object) -> bool:
    """Is it our task to find a node for the pod?"""
    ours = pod["spec"].get("schedulerName", NAME) == NAME
    return ours and not pod["spec"].get("nodeName") and is_active(pod)


def _keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.key == PODS:
        waits = change.kind != "DELETED" and _waits(change.object)
        return [key_of(change)] if waits else []
    return [
        (pod["metadata"]["namespace"], pod["metadata"]["name"])
        for pod in cluster.store.objects(PODS)
        if _waits(pod)
    ]


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    pod = cluster.store.get(PODS, *key)
    if pod is None or not _waits(pod):
        return ()
    pods = cluster.store.objects(PODS)
    load = Counter(
        p["spec"]["nodeName"] for p in pods if p["spec"].get("nodeName") and is_active(p)
    )
    return decide(pod, cluster.store.objects(NODES), load, cluster.now())


CONTROLLER: Final = Controller(NAME, (PODS, NODES), _keys, _look)
