"""Pods as people name them: by their own name, or that of their Deployment or app. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ambient.api.errors import UsageError
from ambient.kube.core.resources import KubeObject

KINDS: Final = frozenset(
    {"po", "pod", "pods", "deploy", "deployment", "deployments", "ds", "daemonset", "daemonsets",
     "sts", "statefulset", "statefulsets", "rs", "replicaset", "replicasets", "job", "jobs", "svc",
     "service", "services"}
)  # fmt: skip
"""Words before a slash that are kubectl's kinds and no namespace."""
APP_LABELS: Final = ("app", "app.kubernetes.io/name", "service.istio.io/canonical-name", "k8s-app")
HASH_LABEL: Final = "pod-template-hash"
"""Of a Deployment's pods; its ReplicaSet's name ends with it."""


def place(given: str, namespace: str) -> tuple[str, str]:
    """``NAME``, ``NAME.NAMESPACE``, ``NAMESPACE/NAME``, or with kubectl's kind before it:
    ``deploy/NAME``. Raises UsageError.
    """
    given = without_kind(given)
    where, slash, name = given.partition("/")
    if not slash:
        name, _, where = given.partition(".")
        where = where.partition(".")[0] or namespace
    if not name or not where:
        raise UsageError(f"{given!r} names nothing", hint="write NAME.NAMESPACE")
    return where, name


def without_kind(given: str) -> str:
    """``deploy/NAME`` is ``NAME``; other names stay as they are."""
    kind, slash, name = given.partition("/")
    return name if slash and kind in KINDS else given


def pods_meant(pods: Iterable[KubeObject], name: str) -> list[KubeObject]:
    """The pod of this name; else those of the workload, else of the app of this name. Running ones
    come first.
    """
    there = sorted(pods, key=lambda pod: (not _runs(pod), pod["metadata"]["name"]))
    for names in (_own, _workload, _app):
        found = [pod for pod in there if name in names(pod)]
        if found:
            return found
    return []


def _runs(pod: KubeObject) -> bool:
    ended = pod["metadata"].get("deletionTimestamp")
    return not ended and (pod.get("status") or {}).get("phase") == "Running"


def _own(pod: KubeObject) -> Iterator[str]:
    yield pod["metadata"]["name"]


def _workload(pod: KubeObject) -> Iterator[str]:
    suffix = "-" + str(_labels(pod).get(HASH_LABEL) or "")
    for owner in pod["metadata"].get("ownerReferences") or ():
        yield owner["name"]
        if len(suffix) > 1:
            yield owner["name"].removesuffix(suffix)


def _app(pod: KubeObject) -> Iterator[str]:
    labels = _labels(pod)
    yield from (labels[label] for label in APP_LABELS if label in labels)


def _labels(pod: KubeObject) -> dict[str, str]:
    found: dict[str, str] = pod["metadata"].get("labels") or {}
    return found
