"""DaemonSet: one pod on every node that fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import DAEMON_SETS, NODES, PODS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of
from ambientctl.local.controllers.placement import obstacle
from ambientctl.local.controllers.pods import (
    FINISHED,
    is_ready,
    is_terminating,
    owner_keys,
    phase,
    pod_from,
    pods_of,
    template_hash,
)
from ambientctl.local.controllers.rollout import limits

NAME: Final = "daemonset-controller"
HASH_LABEL: Final = "controller-revision-hash"
GENERATION_LABEL: Final = "pod-template-generation"
_TOLERATED: Final = (
    "not-ready",
    "unreachable",
    "disk-pressure",
    "memory-pressure",
    "unschedulable",
)
"""Node conditions that never keep a daemon away (DaemonSet controller)."""


def decide(daemon_set: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> list[Command]:
    """Make, replace and delete pods so that every fitting node has one of the present template."""
    spec = _daemon_spec(daemon_set["spec"]["template"]["spec"])
    fitting = [n["metadata"]["name"] for n in nodes if not obstacle(spec, n, daemon=True)]
    digest = template_hash(daemon_set["spec"]["template"])
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        by_node.setdefault(pod["spec"].get("nodeName", ""), []).append(pod)
    commands: list[Command] = []
    if not daemon_set["metadata"].get("deletionTimestamp"):
        commands += _placement(daemon_set, fitting, by_node, digest)
        commands += _update(daemon_set, fitting, by_node, digest)
    status = _status(daemon_set, fitting, by_node, digest)
    if status != daemon_set.get("status"):
        commands.append(Replace(DAEMON_SETS, {**daemon_set, "status": status}, "status"))
    return commands


def _daemon_spec(spec: Object) -> Object:
    """The template's spec with the tolerations that every daemon has."""
    added = [{"key": f"node.kubernetes.io/{name}", "operator": "Exists"} for name in _TOLERATED]
    return {**spec, "tolerations": [*(spec.get("tolerations") or ()), *added]}


def _placement(
    daemon_set: Object, fitting: Sequence[str], by_node: dict[str, list[Object]], digest: str
) -> list[Command]:
    commands: list[Command] = []
    surge = _surge(daemon_set, len(fitting))
    for name in fitting:
        found = by_node.get(name, [])
        live = [pod for pod in found if phase(pod) not in FINISHED]
        commands += [_delete(pod) for pod in found if pod not in live and not is_terminating(pod)]
        staying = [pod for pod in live if not is_terminating(pod)]
        if not (staying if surge else live):
            # A terminating pod keeps its place, unless two of these may share a node's ports.
            commands.append(Create(PODS, _pod(daemon_set, name, digest)))
        current = [pod for pod in staying if _is_current(pod, digest)]
        outdated = [pod for pod in staying if pod not in current]
        for rivals in (current, outdated) if surge else (staying,):
            commands += [_delete(pod) for pod in sorted(rivals, key=_age_key)[1:]]
    for name, found in by_node.items():
        if name not in fitting:
            commands += [_delete(pod) for pod in found if not is_terminating(pod)]
    return commands


def _age_key(pod: Object) -> tuple[str, str]:
    """Of two pods on one node the older stays."""
    return pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]


def _standing(pod: Object) -> tuple[bool, str, str]:
    """Which pod of a node counts: one that stays, the oldest of these."""
    return is_terminating(pod), *_age_key(pod)


def _pod(daemon_set: Object, node: str, digest: str) -> Object:
    """A pod for one node; it names its node, so the scheduler has nothing to decide."""
    generation = str(daemon_set["metadata"]["generation"])
    pod = pod_from(daemon_set, {HASH_LABEL: digest, GENERATION_LABEL: generation})
    return {**pod, "spec": {**_daemon_spec(pod["spec"]), "nodeName": node}}


def _delete(pod: Object) -> Delete:
    return Delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])


def _is_current(pod: Object, digest: str) -> bool:
    """Was the pod made from the present template?"""
    return bool((pod["metadata"].get("labels") or {}).get(HASH_LABEL) == digest)


def _update(
    daemon_set: Object, fitting: Sequence[str], by_node: dict[str, list[Object]], digest: str
) -> list[Command]:
    """Rolling update: with maxSurge the new pod comes first, otherwise the old one goes first."""
    strategy = daemon_set["spec"]["updateStrategy"]
    if strategy.get("type") != "RollingUpdate":
        return []
    live = {n: [p for p in by_node.get(n, []) if phase(p) not in FINISHED] for n in fitting}
    surge = _surge(daemon_set, len(fitting))
    if surge:
        return _surge_update(daemon_set, live, digest, surge)
    rolling = strategy.get("rollingUpdate") or {}
    return _delete_update(list(live.values()), digest, rolling)


def _surge(daemon_set: Object, nodes: int) -> int:
    """How many nodes may have the old and the new pod at the same time."""
    strategy = daemon_set["spec"]["updateStrategy"]
    if strategy.get("type") != "RollingUpdate":
        return 0
    rolling = strategy.get("rollingUpdate") or {}
    return limits(nodes, {"maxSurge": 0, "maxUnavailable": 1, **rolling}).surge


def _surge_update(
    daemon_set: Object, live: dict[str, list[Object]], digest: str, surge: int
) -> list[Command]:
    """Put a new pod beside the old one; delete the old one when the new one is ready."""
    commands: list[Command] = []
    waiting: list[str] = []
    for name, found in live.items():
        staying = [pod for pod in found if not is_terminating(pod)]
        current = [pod for pod in staying if _is_current(pod, digest)]
        outdated = [pod for pod in staying if pod not in current]
        if not outdated:
            continue
        if any(is_ready(pod) for pod in current):
            commands += [_delete(pod) for pod in outdated]
        elif current:
            surge -= 1
        elif not any(is_ready(pod) for pod in outdated):
            commands.append(Create(PODS, _pod(daemon_set, name, digest)))  # nobody serves here
        else:
            waiting.append(name)
    for name in waiting[: max(surge, 0)]:
        commands.append(Create(PODS, _pod(daemon_set, name, digest)))
    return commands


def _delete_update(live: Sequence[Sequence[Object]], digest: str, rolling: Object) -> list[Command]:
    """Delete so many outdated pods that no more than maxUnavailable are away."""
    away = sum(not any(is_ready(p) and not is_terminating(p) for p in found) for found in live)
    room = max(limits(len(live), {**rolling, "maxSurge": 0}).unavailable, 1) - away
    commands: list[Command] = []
    for found in live:
        for pod in found:
            if _is_current(pod, digest) or is_terminating(pod):
                continue
            if not is_ready(pod):
                commands.append(_delete(pod))  # it serves nobody: replacing it costs nothing
            elif room > 0:
                commands.append(_delete(pod))
                room -= 1
    return commands


def _status(
    daemon_set: Object, fitting: Sequence[str], by_node: dict[str, list[Object]], digest: str
) -> Object:
    """The counts that ``kubectl rollout status`` and ``kubectl get`` show."""
    live = [[p for p in by_node.get(n, []) if phase(p) not in FINISHED] for n in fitting]
    placed = [min(found, key=_standing) for found in live if found]
    ready = sum(is_ready(pod) for pod in placed)
    misplaced = sum(bool(pods) for name, pods in by_node.items() if name not in fitting)
    optional = {
        "updatedNumberScheduled": sum(_is_current(pod, digest) for pod in placed),
        "numberAvailable": ready,
        "numberUnavailable": len(fitting) - ready,
    }
    return {
        "currentNumberScheduled": len(placed),
        "desiredNumberScheduled": len(fitting),
        "numberMisscheduled": misplaced,
        "numberReady": ready,
        "observedGeneration": daemon_set["metadata"]["generation"],
        **{name: count for name, count in optional.items() if count},
    }


def _keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.key == DAEMON_SETS:
        return [key_of(change)]
    if change.key == PODS:
        return owner_keys(change, "DaemonSet")
    return [
        (found["metadata"]["namespace"], found["metadata"]["name"])
        for found in cluster.store.objects(DAEMON_SETS)
    ]


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    daemon_set = cluster.store.get(DAEMON_SETS, *key)
    if daemon_set is None:
        return ()
    return decide(daemon_set, cluster.store.objects(NODES), pods_of(cluster.store, daemon_set))


CONTROLLER: Final = Controller(NAME, (DAEMON_SETS, PODS, NODES), _keys, _look)
