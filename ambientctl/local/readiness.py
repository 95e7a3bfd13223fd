"""Is the mesh complete? Decided from the API's objects alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ambient.kube.core.resources import KubeObject
from ambientctl.local.layout import SYSTEM_NAMESPACE

MAX_RESTARTS: Final = 3
"""A mesh program that ended so often while the mesh starts will not come up."""


class Readiness(NamedTuple):
    """How far the start has come."""

    ready: int
    wanted: int
    waiting: tuple[str, ...]
    """Pods, or controllers without pods yet, that are not ready."""

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return not self.waiting


class Failing(NamedTuple):
    """A container of the mesh itself that keeps ending."""

    namespace: str
    pod: str
    container: str
    exit_code: int


def assess(
    nodes: Iterable[KubeObject],
    workloads: Iterable[KubeObject],
    pods: Iterable[KubeObject],
    node_count: int,
) -> Readiness:
    """``workloads`` are Deployments and DaemonSets; every pod they make must be Ready."""
    ready, wanted, waiting = 0, node_count, []
    for node in nodes:
        if condition(node, "Ready"):
            ready += 1
        else:
            waiting.append(f"node {node['metadata']['name']}")
    if ready + len(waiting) < node_count:
        waiting.append("nodes")
    present = list(pods)
    for workload in workloads:
        count = _replicas(workload, node_count)
        done = sum(1 for pod in present if _made_by(workload, pod) and condition(pod, "Ready"))
        ready, wanted = ready + min(done, count), wanted + count
        if done < count:
            metadata = workload["metadata"]
            waiting.append(f"{metadata['namespace']}/{metadata['name']}")
    return Readiness(ready, wanted, tuple(waiting))


def failing(pods: Iterable[KubeObject]) -> Failing | None:
    """A program of the mesh that does not stay up."""
    for pod in pods:
        metadata = pod["metadata"]
        if metadata["namespace"] != SYSTEM_NAMESPACE:
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            if status.get("restartCount", 0) >= MAX_RESTARTS and not status.get("ready"):
                last = (status.get("lastState") or {}).get("terminated") or {}
                code = last.get("exitCode", 0)
                return Failing(metadata["namespace"], metadata["name"], status["name"], code)
    return None


def why_waiting(pod: KubeObject) -> str:
    """The reason a pod is not ready, in a few words; empty when it is."""
    if condition(pod, "Ready"):
        return ""
    status = pod.get("status") or {}
    for container in [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            message = waiting.get("message", "")
            return f"{waiting.get('reason', '')}{': ' if message else ''}{message}"
    return "NotReady" if status.get("phase") == "Running" else str(status.get("phase", ""))


def condition(obj: Mapping[str, Any], kind: str) -> bool:
    """Is a condition True?"""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return any(c.get("type") == kind and c.get("status") == "True" for c in conditions)


def _replicas(workload: KubeObject, node_count: int) -> int:
    if workload["kind"] == "DaemonSet":
        return node_count
    replicas = workload["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _made_by(workload: KubeObject, pod: KubeObject) -> bool:
    """By namespace and selector; pods that are being deleted do not count."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    wanted: Mapping[str, str] = workload["spec"]["selector"].get("matchLabels") or {}
    return (
        metadata["namespace"] == workload["metadata"]["namespace"]
        and not metadata.get("deletionTimestamp")
        and all(labels.get(key) == value for key, value in wanted.items())
    )
