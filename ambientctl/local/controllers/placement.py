"""May this pod run on this node? Shared by the scheduler and the DaemonSet controller."""

from __future__ import annotations

from typing import Final

from ambientctl.local.apiserver.core.selectors import from_expression
from ambientctl.local.apiserver.core.status import Object

_BLOCKING: Final = frozenset({"NoSchedule", "NoExecute"})
UNSCHEDULABLE_TAINT: Final[Object] = {
    "key": "node.kubernetes.io/unschedulable",
    "effect": "NoSchedule",
}


def is_ready(node: Object) -> bool:
    """Does the node's kubelet report it ready?"""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def obstacle(spec: Object, node: Object, *, daemon: bool = False) -> str:
    """Why the pod cannot run on the node, in the scheduler's words; empty when it can."""
    node_spec = node.get("spec") or {}
    if not is_ready(node) and not daemon:
        return "node(s) were not ready"
    if node_spec.get("unschedulable") and not daemon and not _tolerated(spec, UNSCHEDULABLE_TAINT):
        return "node(s) were unschedulable"
    if not _selected(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in node_spec.get("taints") or ():
        if taint.get("effect") in _BLOCKING and not _tolerated(spec, taint):
            shown = f"{taint.get('key', '')}: {taint.get('value', '')}"
            return f"node(s) had untolerated taint {{{shown}}}"
    return ""


def _selected(spec: Object, node: Object) -> bool:
    """Do nodeSelector and the required node affinity take the node?"""
    labels = node["metadata"].get("labels") or {}
    wanted = spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def _term_matches(term: Object, node: Object) -> bool:
    """All expressions of one term; terms are alternatives."""
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    on_labels = [from_expression(item) for item in term.get("matchExpressions") or ()]
    on_fields = [from_expression(item) for item in term.get("matchFields") or ()]
    if not on_labels and not on_fields:
        return False  # an empty term matches nothing (core/v1)
    return all(r.matches(labels) for r in on_labels) and all(r.matches(fields) for r in on_fields)


def _tolerated(spec: Object, taint: Object) -> bool:
    return any(_tolerates(toleration, taint) for toleration in spec.get("tolerations") or ())


def _tolerates(toleration: Object, taint: Object) -> bool:
    """Does one toleration cover the taint?"""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    same = toleration.get("value", "") == taint.get("value", "")
    return bool(toleration.get("key")) and same
