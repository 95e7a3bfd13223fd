"""Workloads in the objects under analysis: pods, and the templates that pods are made from."""

from __future__ import annotations

from typing import Final

import msgspec

from ambient.kube.core.objects import GATEWAY_NAME_LABEL
from istiod_lite.core.facts import ObjectRef
from istiod_lite.core.validation.report import Field

TEMPLATES: Final = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind to the path of what looks like a pod."""
SIDECAR_STATUS: Final = "sidecar.istio.io/status"


class Probe(msgspec.Struct, frozen=True):
    """A health probe over the network; ``port`` is a number or the name of a container's port."""

    field: str
    port: int


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, what pods are made from, or a WorkloadEntry."""

    ref: ObjectRef
    path: str
    """Where the pod is inside the object, such as ``spec.template``."""
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    account: str
    host_network: bool = False
    sidecar: bool = False
    running: bool = False
    """A pod that runs now."""
    ports: dict[str, int]
    """Named ports."""
    numbers: frozenset[int] = frozenset()
    """All declared ports; none at all says nothing, since pods need not declare any."""
    probes: tuple[Probe, ...] = ()
    owned: bool = False
    """Made by another object, which may be here too."""


def read_workload(ref: ObjectRef, root: Field) -> Workload | None:
    """The workload in an object; None for kinds that have none."""
    if ref.kind == "WorkloadEntry":
        return _entry(ref, root)
    steps = TEMPLATES.get(ref.kind)
    if steps is None:
        return None
    pod = root
    for step in steps:
        pod = pod[step]
    return _pod(ref, root, pod)


def _pod(ref: ObjectRef, root: Field, pod: Field) -> Workload:
    spec, metadata = pod["spec"], pod["metadata"]
    named: dict[str, int] = {}
    numbers: set[int] = set()
    containers = [*spec["containers"].items(), *spec["initContainers"].items()]
    for container in containers:
        for port in container["ports"].items():
            number = port["containerPort"].value
            if isinstance(number, int):
                numbers.add(number)
                if name := port["name"].text():
                    named[name] = number
    annotations, labels = _texts(metadata["annotations"]), _texts(metadata["labels"])
    return Workload(
        ref=ref,
        path=pod.path,
        namespace=ref.key.namespace,
        labels=labels,
        annotations=annotations,
        account=spec["serviceAccountName"].text() or "default",
        host_network=spec["hostNetwork"].value is True,
        # Containers of node tunnels and waypoints have this name, too (istio/istio, its charts).
        sidecar=SIDECAR_STATUS in annotations
        or (
            labels.get("app") != "ztunnel"
            and GATEWAY_NAME_LABEL not in labels
            and any(one["name"].value == "istio-proxy" for one in containers)
        ),
        running=ref.kind == "Pod" and root["status"]["phase"].value == "Running",
        ports=named,
        numbers=frozenset(numbers),
        probes=tuple(_probes(spec["containers"].items(), named)),
        owned=bool(root["metadata"]["ownerReferences"].given),
    )


def _probes(containers: list[Field], named: dict[str, int]) -> list[Probe]:
    found = []
    for container in containers:
        for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
            for way in ("httpGet", "tcpSocket", "grpc"):
                port = container[kind][way]["port"]
                number = port.value
                if isinstance(number, str):
                    number = named.get(number)
                if isinstance(number, int):
                    found.append(Probe(port.path, number))
    return found


def _entry(ref: ObjectRef, root: Field) -> Workload:
    spec = root["spec"]
    return Workload(
        ref=ref,
        path="",
        namespace=ref.key.namespace,
        labels={**_texts(spec["labels"]), **_texts(root["metadata"]["labels"])},
        annotations=_texts(root["metadata"]["annotations"]),
        account=spec["serviceAccount"].text(),
        ports={name: one.value for name, one in spec["ports"].entries() if _is_port(one.value)},
    )


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(field: Field) -> dict[str, str]:
    return {name: one.value for name, one in field.entries() if isinstance(one.value, str)}
