"""Pods as people name them: by their own name, or that of their Deployment or app. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from ambient.api.errors import UsageError
from ambient.kube.core.resources import KubeObject

KINDS: Final = frozenset(
    {"po", "pod", "pods", "deploy", "deployment", "deployments", "ds", "daemonset", "daemonsets",
     "sts", "statefulset", "statefulsets", "rs", "replicaset", "replicasets", "job", "jobs", "svc",
     "service", "services", "gtw", "gateway", "gateways"}
)  # fmt: skip
"""Words before a slash that are kubectl's kinds and no namespace."""
SHOWN: Final = 8
"""Names in one hint."""
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
    """``deploy/NAME`` is ``NAME``, also with kubectl's ``deployment.apps/``; other names stay."""
    kind, slash, name = given.partition("/")
    return name if slash and kind.partition(".")[0].lower() in KINDS else given


def near(name: str, known: Iterable[str], what: str) -> str:
    """A hint: names like a misspelt one, else a few of those that are known, behind ``what``."""
    names = sorted(set(known))
    found = get_close_matches(name, names, 3, 0.6)
    if found:
        return f"did you mean {' or '.join(found)}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def apps_of(pods: Iterable[KubeObject]) -> set[str]:
    """The names by which ``pods_meant`` finds them."""
    return {name for pod in pods for names in (_own, _workload, _app) for name in names(pod)}


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
