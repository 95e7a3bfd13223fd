"""Policies that sidecars enforce by selecting pods, as waypoints enforce them: by targetRefs.

Nobody is without a policy at any moment: the copy is in force at the waypoint first; then the old
one is narrowed to pods that have a sidecar, where it goes on as before. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from istiod_lite.core.analysis.corpus import Corpus, Item, texts
from istiod_lite.core.analysis.workloads import Workload

SIDECAR_LABEL: Final = "security.istio.io/tlsMode"
"""Istio's injector sets it to ``istio`` on every pod that gets a sidecar."""
SELECTOR_BEFORE: Final = "ambient-mesh.io/selector-before-migration"
"""Annotation of a narrowed policy: the selector that it had, as JSON."""
COPY_OF: Final = "ambient-mesh.io/copy-of"
SUFFIX: Final = "-waypoint"
MOST_TARGETS: Final = 16
"""targetRefs of one policy (Istio's definition)."""
TRANSLATED: Final = ("AuthorizationPolicy", "RequestAuthentication")


class Translation(NamedTuple):
    """One policy, and the copy for the waypoint."""

    policy: Item
    services: tuple[str, ...]
    copy: dict[str, Any]

    @property
    def narrowed(self) -> dict[str, Any]:
        """A merge patch of the old policy: only pods with a sidecar, and the way back."""
        selector = self.policy.obj["spec"].get("selector")
        labels = {**((selector or {}).get("matchLabels") or {}), SIDECAR_LABEL: "istio"}
        return {
            "metadata": {"annotations": {SELECTOR_BEFORE: json.dumps(selector)}},
            "spec": {"selector": {"matchLabels": labels}},
        }


def is_narrowed(item: Item) -> bool:
    """Whether it was narrowed already."""
    return item.spec["selector"]["matchLabels"][SIDECAR_LABEL].text() == "istio"


def widened(obj: Mapping[str, Any]) -> dict[str, Any] | None:
    """A merge patch that gives a narrowed policy its selector back; None for others."""
    text = (obj["metadata"].get("annotations") or {}).get(SELECTOR_BEFORE)
    if text is None:
        return None
    selector = json.loads(text)
    labels = dict.fromkeys(((obj["spec"].get("selector") or {}).get("matchLabels")) or {})
    if selector is not None:
        selector = {"matchLabels": {**labels, **(selector.get("matchLabels") or {})}}
    return {
        "metadata": {"annotations": {SELECTOR_BEFORE: None}},
        "spec": {"selector": selector},
    }


def translate(corpus: Corpus, policy: Item) -> Translation | str:
    """The copy, or why there is none: a person has to write it."""
    if _reads_ports(policy):
        return "it names ports, which are those of the pod at a sidecar, and of the Service here"
    selector = texts(policy.spec["selector"]["matchLabels"])
    pods = _pods(corpus, policy.namespace)
    selected = [one for one in pods if selector.items() <= one.labels.items()]
    meant = {one.ref for one in selected}
    for one in selected:
        if one.sidecar and one.labels.get(SIDECAR_LABEL) != "istio":
            return f"pod {one.ref.key.name} has a sidecar without the label {SIDECAR_LABEL}=istio"
    services: list[str] = []
    reached: set[Any] = set()
    for service in corpus.items("Service", policy.namespace):
        wanted = texts(service.spec["selector"])
        if not wanted:
            continue
        name = service.ref.key.name
        behind = {one.ref for one in pods if wanted.items() <= one.labels.items()}
        if not behind and selector.items() <= wanted.items():
            services.append(name)
        elif behind & meant:
            if behind - meant:
                return f"Service {name} leads to other pods, too"
            services.append(name)
            reached |= behind
    if meant - reached or not services:
        return "it selects pods that no Service leads to"
    if len(services) > MOST_TARGETS:
        return f"it concerns more than {MOST_TARGETS} Services"
    return Translation(policy, tuple(services), _copy(policy, services))


def _pods(corpus: Corpus, namespace: str) -> list[Workload]:
    """Pods that serve somebody; a waypoint's own do not."""
    return [
        one
        for one in corpus.workloads
        if one.namespace == namespace
        and one.ref.kind == "Pod"
        and "gateway.networking.k8s.io/gateway-name" not in one.labels
    ]


def _copy(policy: Item, services: list[str]) -> dict[str, Any]:
    spec = {key: value for key, value in policy.obj["spec"].items() if key != "selector"}
    targets = [{"group": "", "kind": "Service", "name": name} for name in services]
    return {
        "apiVersion": policy.obj["apiVersion"],
        "kind": policy.ref.kind,
        "metadata": {
            "name": f"{policy.ref.key.name}{SUFFIX}",
            "namespace": policy.namespace,
            "annotations": {COPY_OF: policy.ref.key.name},
        },
        "spec": {**spec, "targetRefs": targets},
    }


def _reads_ports(policy: Item) -> bool:
    for rule in policy.spec["rules"].items():
        operations = [one["operation"] for one in rule["to"].items()]
        if any(one["ports"].given or one["notPorts"].given for one in operations):
            return True
        if any(one["key"].text().startswith("destination.") for one in rule["when"].items()):
            return True
    return False
