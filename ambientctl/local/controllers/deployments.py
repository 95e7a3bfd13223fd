"""Deployment: ReplicaSets, one for each template, and the walk from the old to the new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import DEPLOYMENTS, PODS, REPLICA_SETS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Record, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of
from ambientctl.local.controllers.pods import (
    owned,
    owner_keys,
    owner_reference,
    pods_of,
    template_hash,
)
from ambientctl.local.controllers.rollout import Generation, limits, next_new, next_old

NAME: Final = "deployment-controller"
HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS: Final = "deployment.kubernetes.io/max-replicas"
_OWN_ANNOTATIONS: Final = frozenset(
    {REVISION, DESIRED, MAX_REPLICAS, "kubectl.kubernetes.io/last-applied-configuration"}
)


def decide(
    deployment: Object, replica_sets: Sequence[Object], running: int, now: str
) -> list[Command]:
    """The next step of the Deployment.

    ``replica_sets`` are the ones it manages, ``running`` counts the pods of all but the newest
    that still exist, terminating ones included (only the Recreate strategy waits for them).
    """
    if deployment["metadata"].get("deletionTimestamp"):
        return []
    newest = _newest(deployment, replica_sets)
    old = sorted((rs for rs in replica_sets if newest is None or rs is not newest), key=_revision)
    commands: list[Command] = []
    revision = max([_revision(rs) for rs in old], default=0) + 1
    if newest is None:
        if deployment["spec"].get("paused"):
            return _status_commands(deployment, None, old, now)
        replicas = _first_replicas(deployment, old, running)
        made = _replica_set(deployment, revision, replicas)
        commands += [Create(REPLICA_SETS, made), *_scaled(deployment, made, 0, replicas)]
    else:
        revision = max(revision, _revision(newest))
        commands += _scale(deployment, newest, old, revision, running)
    commands += _status_commands(deployment, newest, old, now, revision)
    return commands + _history(deployment, old)


def _newest(deployment: Object, replica_sets: Sequence[Object]) -> Object | None:
    """The ReplicaSet that has the Deployment's present template."""
    wanted = _plain_template(deployment["spec"]["template"])
    fitting = [rs for rs in replica_sets if _plain_template(rs["spec"]["template"]) == wanted]
    return min(fitting, key=lambda rs: rs["metadata"]["creationTimestamp"], default=None)


def _plain_template(template: Object) -> Object:
    """A template as the user wrote it: without the label and the fields that we added."""
    metadata = template.get("metadata") or {}
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    rest = {k: v for k, v in metadata.items() if k not in {"labels", "creationTimestamp"} and v}
    return {**template, "metadata": {**rest, "labels": labels}}


def _revision(replica_set: Object) -> int:
    """The number that ``kubectl rollout history`` shows."""
    text = (replica_set["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _numbers(replica_set: Object) -> Generation:
    """What the arithmetic of a rollout needs to know of a ReplicaSet."""
    available = (replica_set.get("status") or {}).get("availableReplicas", 0)
    return Generation(replica_set["spec"]["replicas"], available)


def _is_recreate(deployment: Object) -> bool:
    return bool(deployment["spec"]["strategy"]["type"] == "Recreate")


def _first_replicas(deployment: Object, old: Sequence[Object], running: int) -> int:
    """With how many pods a new ReplicaSet starts."""
    replicas: int = deployment["spec"]["replicas"]
    if _is_recreate(deployment):
        return 0 if running or any(rs["spec"]["replicas"] for rs in old) else replicas
    limit = limits(replicas, deployment["spec"]["strategy"].get("rollingUpdate") or {})
    return next_new(Generation(0, 0), [_numbers(rs) for rs in old], limit)


def _scale(
    deployment: Object, newest: Object, old: Sequence[Object], revision: int, running: int
) -> list[Command]:
    """How many replicas every ReplicaSet may have now. A paused Deployment is only scaled."""
    replicas: int = deployment["spec"]["replicas"]
    new_now, old_now = _numbers(newest), [_numbers(rs) for rs in old]
    if deployment["spec"].get("paused"):
        new, kept = new_now.wanted, [generation.wanted for generation in old_now]
        if not any(kept):
            new = replicas
    elif _is_recreate(deployment):
        kept = [0] * len(old)
        idle = not running and not any(generation.wanted for generation in old_now)
        new = replicas if idle else new_now.wanted
    else:
        limit = limits(replicas, deployment["spec"]["strategy"].get("rollingUpdate") or {})
        new = next_new(new_now, old_now, limit)
        kept = next_old(new_now, old_now, limit)
    commands = _resize(deployment, newest, new, revision)
    for replica_set, count in zip(old, kept, strict=True):
        commands += _resize(deployment, replica_set, count, _revision(replica_set))
    return commands


def _resize(deployment: Object, replica_set: Object, count: int, revision: int) -> list[Command]:
    """Bring one ReplicaSet to a count, and its annotations up to date."""
    before = replica_set["spec"]["replicas"]
    metadata = replica_set["metadata"]
    annotations = {**(metadata.get("annotations") or {}), **_annotations(deployment, revision)}
    changed = {
        **replica_set,
        "metadata": {**metadata, "annotations": annotations},
        "spec": {**replica_set["spec"], "replicas": count},
    }
    if changed == replica_set:
        return []
    return [Replace(REPLICA_SETS, changed), *_scaled(deployment, replica_set, before, count)]


def _scaled(deployment: Object, replica_set: Object, before: int, after: int) -> list[Command]:
    """The event for a changed count."""
    if before == after:
        return []
    way = "up" if after > before else "down"
    name = replica_set["metadata"]["name"]
    message = f"Scaled {way} replica set {name} from {before} to {after}"
    return [Record(deployment, "Normal", "ScalingReplicaSet", message, NAME)]


def _annotations(deployment: Object, revision: int) -> Object:
    """What ``kubectl rollout`` reads on a ReplicaSet."""
    replicas = deployment["spec"]["replicas"]
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    surge = 0 if _is_recreate(deployment) else limits(replicas, rolling).surge
    return {
        REVISION: str(revision),
        DESIRED: str(replicas),
        MAX_REPLICAS: str(replicas + surge),
    }


def _replica_set(deployment: Object, revision: int, replicas: int) -> Object:
    """A ReplicaSet for the present template, told apart by the hash of it."""
    spec, metadata = deployment["spec"], deployment["metadata"]
    template = spec["template"]
    digest = template_hash(_plain_template(template))
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: digest}
    selector = spec["selector"]
    match = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    copied = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key not in _OWN_ANNOTATIONS
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {**copied, **_annotations(deployment, revision)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": replicas,
            "selector": {**selector, "matchLabels": match},
            "template": {
                **template,
                "metadata": {**(template.get("metadata") or {}), "labels": labels},
            },
        },
    }


def _status_commands(
    deployment: Object,
    newest: Object | None,
    old: Sequence[Object],
    now: str,
    revision: int | None = None,
) -> list[Command]:
    commands: list[Command] = []
    metadata = deployment["metadata"]
    annotations = metadata.get("annotations") or {}
    if revision is not None and annotations.get(REVISION) != str(revision):
        annotations = {**annotations, REVISION: str(revision)}
        deployment = {**deployment, "metadata": {**metadata, "annotations": annotations}}
        commands.append(Replace(DEPLOYMENTS, deployment))
        # The status is told on the next turn, which this change brings about.
        return commands
    status = _status(deployment, newest, old, now)
    if status != deployment.get("status"):
        commands.append(Replace(DEPLOYMENTS, {**deployment, "status": status}, "status"))
    return commands


def _status(deployment: Object, newest: Object | None, old: Sequence[Object], now: str) -> Object:
    """The counts over all generations, and the two conditions."""
    every = [*old, *([newest] if newest else [])]

    def total(field: str) -> int:
        return sum((rs.get("status") or {}).get(field, 0) for rs in every)

    replicas: int = deployment["spec"]["replicas"]
    available = total("availableReplicas")
    updated = ((newest or {}).get("status") or {}).get("replicas", 0)
    counts = {
        "replicas": total("replicas"),
        "updatedReplicas": updated,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(replicas - available, 0),
    }
    complete = updated == available == total("replicas") == replicas
    conditions = _conditions(deployment, newest, available, complete, now)
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        **{name: count for name, count in counts.items() if count},
        "conditions": conditions,
    }


def _conditions(
    deployment: Object, newest: Object | None, available: int, complete: bool, now: str
) -> list[Object]:
    """Available: enough pods serve. Progressing: what ``kubectl rollout status`` waits for."""
    replicas = deployment["spec"]["replicas"]
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    enough = available >= replicas - limits(replicas, rolling).unavailable
    serving = (
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    )
    name = newest["metadata"]["name"] if newest else ""
    if deployment["spec"].get("paused"):
        progress = ("Unknown", "DeploymentPaused", "Deployment is paused")
    elif complete:
        text = f'ReplicaSet "{name}" has successfully progressed.'
        progress = ("True", "NewReplicaSetAvailable", text)
    else:
        progress = ("True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
    known = {c.get("type"): c for c in (deployment.get("status") or {}).get("conditions") or ()}
    return [
        _condition("Available", serving, known, now),
        _condition("Progressing", progress, known, now),
    ]


def _condition(kind: str, said: tuple[str, str, str], known: dict[str, Object], now: str) -> Object:
    """The condition as it was while it says the same; its times change only with its words."""
    status, reason, message = said
    before = known.get(kind, {})
    if (before.get("status"), before.get("reason"), before.get("message")) == said:
        return before
    turned = before["lastTransitionTime"] if before.get("status") == status else now
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": turned,
    }


def _history(deployment: Object, old: Sequence[Object]) -> list[Command]:
    """Delete the oldest empty ReplicaSets beyond revisionHistoryLimit."""
    keep = deployment["spec"].get("revisionHistoryLimit", 10)
    empty = [
        rs
        for rs in old
        if rs["spec"]["replicas"] == 0
        and (rs.get("status") or {}).get("replicas", 0) == 0
        and not rs["metadata"].get("deletionTimestamp")
    ]
    surplus = empty[: max(len(empty) - keep, 0)]
    return [
        Delete(REPLICA_SETS, rs["metadata"]["namespace"], rs["metadata"]["name"]) for rs in surplus
    ]


def _keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.key == DEPLOYMENTS:
        return [key_of(change)]
    if change.key == REPLICA_SETS:
        return owner_keys(change, "Deployment")
    if change.kind != "DELETED":
        return []
    # Recreate waits for the last old pod to be gone.
    return [
        (namespace, owner["name"])
        for namespace, name in owner_keys(change, "ReplicaSet")
        if (replica_set := cluster.store.get(REPLICA_SETS, namespace, name))
        for owner in replica_set["metadata"].get("ownerReferences") or ()
    ]


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    deployment = cluster.store.get(DEPLOYMENTS, *key)
    if deployment is None:
        return ()
    replica_sets = owned(cluster.store, REPLICA_SETS, deployment)
    newest = _newest(deployment, replica_sets)
    running = sum(len(pods_of(cluster.store, rs)) for rs in replica_sets if rs is not newest)
    return decide(deployment, replica_sets, running, cluster.now())


CONTROLLER: Final = Controller(NAME, (DEPLOYMENTS, REPLICA_SETS, PODS), _keys, _look)
