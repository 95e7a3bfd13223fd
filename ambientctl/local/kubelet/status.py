"""The status of a pod, from what its containers do. Pure: facts in, the API's object out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec


class Run(StrEnum):
    """What a container is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    TERMINATED = "terminated"


class ContainerFacts(msgspec.Struct):
    """The life of one container so far; the kubelet changes it in place."""

    name: str
    image: str
    run: Run = Run.WAITING
    reason: str = "ContainerCreating"
    message: str = ""
    exit_code: int = 0
    started_at: str | None = None
    finished_at: str | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    """The startup probe has succeeded, or there is none."""
    pid: int = 0
    last: dict[str, Any] | None = None
    """The state of the run before this one."""

    def state(self) -> dict[str, Any]:
        """ContainerState of the API."""
        if self.run is Run.RUNNING:
            return {"running": {"startedAt": self.started_at}}
        if self.run is Run.TERMINATED:
            return {
                "terminated": {
                    "exitCode": self.exit_code,
                    "reason": self.reason,
                    "startedAt": self.started_at,
                    "finishedAt": self.finished_at,
                    "containerID": self.container_id,
                }
            }
        waiting = {"reason": self.reason}
        return {"waiting": waiting | ({"message": self.message} if self.message else {})}

    @property
    def container_id(self) -> str:
        """The process id stands for the runtime's id; there is no other."""
        return f"process://{self.pid}" if self.pid else ""

    def status(self) -> dict[str, Any]:
        """ContainerStatus of the API."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "containerID": self.container_id,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state(),
            "lastState": self.last or {},
        }


class PodFacts(msgspec.Struct):
    """What the kubelet knows of a pod."""

    host_ip: str
    start_time: str
    containers: list[ContainerFacts]
    init: list[ContainerFacts]
    pod_ip: str = ""
    sandbox: bool = False
    initialized: bool = False


def timestamp() -> str:
    """Now, as the API writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def phase(facts: PodFacts, restart_policy: str) -> str:
    """The pod's phase (Kubernetes, "Pod Lifecycle")."""
    if any(c.run is Run.TERMINATED and c.exit_code for c in facts.init):
        return "Failed" if restart_policy == "Never" else "Pending"
    runs = [c.run for c in facts.containers]
    if not facts.initialized or all(run is Run.WAITING and not _ran(c) for run, c in _each(facts)):
        return "Pending"
    if all(run is Run.TERMINATED for run in runs) and restart_policy != "Always":
        failed = any(c.exit_code for c in facts.containers)
        if not failed:
            return "Succeeded"
        if restart_policy == "Never":
            return "Failed"
    return "Running"


def _each(facts: PodFacts) -> list[tuple[Run, ContainerFacts]]:
    return [(container.run, container) for container in facts.containers]


def _ran(container: ContainerFacts) -> bool:
    return container.restarts > 0 or container.last is not None


def pod_status(
    facts: PodFacts, restart_policy: str, previous: Sequence[Mapping[str, Any]], now: str
) -> dict[str, Any]:
    """The whole status; ``previous`` are the conditions so far, for their transition times."""
    ready = facts.initialized and all(container.ready for container in facts.containers)
    current = phase(facts, restart_policy)
    unready = [container.name for container in facts.containers if not container.ready]
    why = (
        {}
        if ready
        else {
            "reason": "PodCompleted" if current == "Succeeded" else "ContainersNotReady",
            "message": f"containers with unready status: [{' '.join(unready)}]",
        }
    )
    status: dict[str, Any] = {
        "phase": current,
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "startTime": facts.start_time,
        "qosClass": "BestEffort",
        "conditions": [
            _condition("PodReadyToStartContainers", facts.sandbox, {}, previous, now),
            _condition("Initialized", facts.initialized, {}, previous, now),
            _condition("Ready", ready, why, previous, now),
            _condition("ContainersReady", ready, why, previous, now),
            _condition("PodScheduled", True, {}, previous, now),
        ],
        "containerStatuses": [container.status() for container in facts.containers],
    }
    if facts.init:
        status["initContainerStatuses"] = [container.status() for container in facts.init]
    if facts.pod_ip:
        status |= {"podIP": facts.pod_ip, "podIPs": [{"ip": facts.pod_ip}]}
    return status


def _condition(
    kind: str,
    value: bool,
    why: Mapping[str, str],
    previous: Sequence[Mapping[str, Any]],
    now: str,
) -> dict[str, Any]:
    text = "True" if value else "False"
    since = now
    for condition in previous:
        if condition.get("type") == kind and condition.get("status") == text:
            since = condition.get("lastTransitionTime") or now
    return {"type": kind, "status": text, "lastProbeTime": None, "lastTransitionTime": since, **why}
