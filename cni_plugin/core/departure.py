"""The agent ends: is it replaced, or is the mesh taken off this node?

Replaced (an upgrade, a reboot), it leaves the plugin where it is, so that pods wait for its
successor. Removed, it must take the plugin along, or no pod of the node would start any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from typing import Any, NamedTuple

from ambient.kube.core.objects import LabelRequirement, LabelSelector, matches


class Answer(StrEnum):
    """What the API server says about the agent's DaemonSet."""

    FOUND = auto()
    NOT_FOUND = auto()
    FORBIDDEN = auto()
    """401 or 403: the account, or its role, is gone or never was."""
    SILENT = auto()
    """No answer, or another error."""


class Look(NamedTuple):
    """One answer, with the object where there is one."""

    answer: Answer
    daemon_set: Mapping[str, Any] | None = None


class Verdict(NamedTuple):
    """Whether to clean the node up, and why."""

    clean: bool
    reason: str


def decide(at_start: Answer, now: Look, node_labels: Mapping[str, str] | None) -> Verdict:
    """``at_start`` is what was answered when the agent began; no labels: not known."""
    if at_start is not Answer.FOUND:
        return Verdict(False, "no DaemonSet of ours was there at the start, so none can be missed")
    if now.answer is Answer.NOT_FOUND:
        return Verdict(True, "the DaemonSet is gone")
    if now.answer is Answer.FORBIDDEN:
        return Verdict(True, "the agent's rights, which it had at its start, are gone")
    if now.daemon_set is None:
        return Verdict(False, "the API server does not answer, which proves no removal")
    if now.daemon_set["metadata"].get("deletionTimestamp"):
        return Verdict(True, "the DaemonSet is being deleted")
    if node_labels is not None and not _belongs(now.daemon_set, node_labels):
        return Verdict(True, "the DaemonSet does not want this node any more")
    return Verdict(False, "the DaemonSet is there and will start a successor")


def _belongs(daemon_set: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Node selector and required node affinity of the pod template."""
    spec = daemon_set.get("spec", {}).get("template", {}).get("spec", {})
    if not (spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term(term, labels) for term in required.get("nodeSelectorTerms") or ())


def _term(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """All expressions of a term; an empty term matches nothing (Kubernetes API reference)."""
    found = tuple(
        LabelRequirement(
            key=each["key"], operator=each["operator"], values=tuple(each.get("values") or ())
        )
        for each in term.get("matchExpressions") or ()
    )
    return bool(found) and matches(LabelSelector(match_expressions=found), dict(labels))
