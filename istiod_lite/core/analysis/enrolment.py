"""Labels that enrol: in conflict with sidecars, misspelt, misplaced, or without effect."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from ambient.kube.core import objects
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import EXCLUDED, Corpus, Item, texts
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.analysis.workloads import TEMPLATES, Workload

MODE: Final = objects.AMBIENT_MODE_LABEL
INJECTION: Final = "istio-injection"
SIDECAR_INJECT: Final = "sidecar.istio.io/inject"
KNOWN_LABELS: Final = (
    MODE,
    objects.USE_WAYPOINT_LABEL,
    objects.USE_WAYPOINT_NAMESPACE_LABEL,
    objects.WAYPOINT_FOR_LABEL,
    "istio.io/ingress-use-waypoint",
    "istio.io/use-waypoint-canary",
    "istio.io/use-waypoint-canary-namespace",
    "istio.io/rev",
    "istio.io/tag",
    "istio.io/global",
)
ALSO_KNOWN: Final = ("istio.io/gateway-name", "istio.io/config", "istio.io/key")


def namespaces(corpus: Corpus) -> Iterator[Finding]:
    """Labels of namespaces."""
    for item in corpus.items("Namespace"):
        labels = item.labels
        mode = labels.get(MODE)
        if mode == "ambient" and labels.get(INJECTION) == "enabled":
            text = f"labels {MODE}=ambient and {INJECTION}=enabled: new pods get a sidecar"
            remedy = f"kubectl label namespace {item.ref.key.name} {INJECTION}-"
            field = f"metadata.labels.{INJECTION}"
            yield item.says(codes.SIDECAR_AND_AMBIENT, text, remedy, field=field)
        if mode == "ambient" and item.ref.key.name in EXCLUDED:
            text = f"label {MODE}=ambient has no effect here: the namespace is excluded"
            remedy = "EXCLUDE_NAMESPACES of the DaemonSet istio-cni-node names it"
            yield item.says(codes.MODE_LABEL, text, remedy, field=f"metadata.labels.{MODE}")


def labels(corpus: Corpus) -> Iterator[Finding]:
    """Labels that look like the mesh's and are not."""
    for item in corpus.all():
        kind = item.ref.kind
        if kind not in TEMPLATES and kind not in ("Namespace", "Service", "ServiceEntry"):
            continue
        yield from _spelling(item, item.labels, "metadata.labels")
        if TEMPLATES.get(kind):
            yield from _misplaced(item)
    for workload in corpus.workloads:
        found = corpus.at(workload.ref)
        if found is not None and workload.path:
            yield from _spelling(found, workload.labels, f"{workload.path}.metadata.labels")


def _spelling(item: Item, labels: dict[str, str], path: str) -> Iterator[Finding]:
    for name, value in labels.items():
        field = f"{path}.{name}"
        if name == MODE and value not in ("ambient", "none"):
            text = f"label {MODE}={value!r} means nothing"
            remedy = "allowed are ambient and none"
            yield item.says(codes.MODE_LABEL, text, remedy, field=field)
        if name in KNOWN_LABELS or name in ALSO_KNOWN:
            continue
        prefix = name.replace("_", "-").lower()
        if not (prefix.startswith(("istio.io/", "istio-")) or "dataplane-mode" in prefix):
            continue
        near = get_close_matches(prefix, KNOWN_LABELS, 1, 0.8)
        if near:
            text = f"label {name} is not known to the mesh"
            yield item.says(codes.MODE_LABEL, text, f"did you mean {near[0]}?", field=field)


def _misplaced(item: Item) -> Iterator[Finding]:
    """On a Deployment itself: pods have the labels of its template."""
    for name in (MODE, objects.USE_WAYPOINT_LABEL, SIDECAR_INJECT):
        template = item.root
        for step in TEMPLATES[item.ref.kind]:
            template = template[step]
        if name in item.labels and name not in texts(template["metadata"]["labels"]):
            text = f"label {name} on the {item.ref.kind} itself does not reach its pods"
            remedy = f"put it into {template.path}.metadata.labels"
            yield item.says(codes.MODE_LABEL, text, remedy, field=f"metadata.labels.{name}")


def pods(corpus: Corpus) -> Iterator[Finding]:
    """Workloads that ask for the mesh and cannot join, or did not."""
    for workload in corpus.workloads:
        item = corpus.at(workload.ref)
        if item is None or not _asks(corpus, workload):
            continue
        own = workload.labels.get(MODE) == "ambient"
        if workload.host_network:
            text = f"label {MODE}=ambient has no effect: it uses the node's network"
            severity = Severity.WARNING if own else Severity.INFO
            remedy = "run it without hostNetwork, or label it istio.io/dataplane-mode=none"
            yield item.says(codes.NOT_ELIGIBLE, text, remedy, severity=severity)
        elif workload.sidecar:
            text = "has a sidecar, so that the node tunnel does not capture it"
            remedy = "remove the injection label and restart the pod"
            yield item.says(codes.SIDECAR_AND_AMBIENT, text, remedy, severity=Severity.WARNING)
        elif _injects(workload):
            text = f"asks for a sidecar ({SIDECAR_INJECT}) and for ambient mode"
            yield item.says(codes.SIDECAR_AND_AMBIENT, text, f"remove {SIDECAR_INJECT}")
        elif (
            workload.running
            and workload.annotations.get(objects.REDIRECTION_ANNOTATION) != "enabled"
        ):
            text = "should be in the mesh, and its node has not captured it"
            remedy = "is istio-cni-node ready on its node? ambientctl check names it"
            yield item.says(codes.NOT_CAPTURED, text, remedy)


def _asks(corpus: Corpus, workload: Workload) -> bool:
    mode = workload.labels.get(MODE)
    if mode is not None or workload.namespace in EXCLUDED:
        return mode == "ambient" and workload.namespace not in EXCLUDED
    return (corpus.namespace_labels(workload.namespace) or {}).get(MODE) == "ambient"


def _injects(workload: Workload) -> bool:
    asked = workload.labels.get(SIDECAR_INJECT) or workload.annotations.get(SIDECAR_INJECT, "")
    return asked.lower() == "true"
