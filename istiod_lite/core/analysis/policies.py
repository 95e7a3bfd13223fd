"""AuthorizationPolicy and RequestAuthentication: who enforces them, on whom, naming whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ambient.kube.core import objects
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item, texts
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.policies import DRY_RUN_ANNOTATION
from istiod_lite.core.statuses import WAYPOINT_ACCEPTED, ZTUNNEL_ACCEPTED
from istiod_lite.core.targets import NOT_BOUND, NOT_FOUND
from istiod_lite.core.validation.report import Field

UNTARGETED: Final = {
    "RequestAuthentication": "only waypoints look at tokens",
    "EnvoyFilter": "node tunnels are no Envoys",
}
"""Kinds that do nothing without targetRefs, and why."""
TARGET_REMEDY: Final = (
    "give it targetRefs to the Service instead of the selector, and the Service a waypoint: "
    "ambientctl waypoint apply --enroll-namespace"
)


def enforcement(corpus: Corpus) -> Iterator[Finding]:
    """Policies that nobody enforces, or not as they are written."""
    for item in corpus.items("AuthorizationPolicy"):
        action = item.spec["action"].text() or "ALLOW"
        if item.annotations.get(DRY_RUN_ANNOTATION, "").lower() == "true":
            text = "dry run: what it would deny is counted and logged, and passes"
            remedy = f"remove the annotation {DRY_RUN_ANNOTATION} to enforce it"
            yield item.says(codes.DRY_RUN, text, remedy)
        for one in corpus.conditions(item):
            if one.type == ZTUNNEL_ACCEPTED and one.reason != "Accepted":
                yield _at_tunnels(corpus, item, one.message, action, enforced=one.met)
            elif one.type == WAYPOINT_ACCEPTED and one.reason != "Accepted":
                yield _at_waypoint(item, one.reason, one.message, action)
    for kind, what in UNTARGETED.items():
        for item in corpus.items(kind):
            if not item.spec["targetRefs"].given and not item.spec["targetRef"].given:
                text = f"without targetRefs: {what}, and waypoints act by targetRefs"
                yield item.says(
                    codes.INEFFECTIVE_POLICY, text, TARGET_REMEDY, field="spec.selector"
                )
            for one in corpus.conditions(item):
                if one.type == WAYPOINT_ACCEPTED and one.reason != "Accepted":
                    yield _at_waypoint(item, one.reason, one.message, "ALLOW")


def _at_tunnels(corpus: Corpus, item: Item, text: str, action: str, *, enforced: bool) -> Finding:
    void = not enforced or "nothing of this DENY" in text
    if not void:
        field = _l7_field(item)
        return item.says(codes.POLICY_STRICTER, text, TARGET_REMEDY, field=field)
    # What should deny and does not is worse than what denies too much.
    severity = Severity.ERROR if action in ("DENY", "CUSTOM") else Severity.WARNING
    labels = corpus.namespace_labels(item.namespace) or {}
    if item.spec["selector"].given and labels.get(objects.USE_WAYPOINT_LABEL):
        text = f"{text} (the namespace's waypoint looks at targetRefs only)"
        code = codes.INEFFECTIVE_SELECTOR
        return item.says(code, text, TARGET_REMEDY, field="spec.selector", severity=severity)
    code = codes.INEFFECTIVE_POLICY
    return item.says(code, text, TARGET_REMEDY, field=_l7_field(item), severity=severity)


def _l7_field(item: Item) -> str:
    rules = item.spec["rules"].items()
    return rules[0].path if rules else "spec"


def _at_waypoint(item: Item, reason: str, text: str, action: str) -> Finding:
    field = "spec.targetRefs" if item.spec["targetRefs"].present else "spec.targetRef"
    if reason == NOT_FOUND:
        return item.says(codes.NOT_FOUND, text, "correct the name of the target", field=field)
    remedy = "correct the targets that are named"
    if reason == NOT_BOUND:
        remedy = (
            f"ambientctl waypoint apply -n {item.namespace} --enroll-namespace, "
            f"or label the target {objects.USE_WAYPOINT_LABEL}"
        )
    severity = Severity.ERROR if action in ("DENY", "CUSTOM", "ALLOW") else Severity.WARNING
    if reason == "PartiallyInvalid":
        severity = Severity.WARNING
    return item.says(codes.INEFFECTIVE_POLICY, text, remedy, field=field, severity=severity)


SELECTING: Final = ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")


def selection(corpus: Corpus) -> Iterator[Finding]:
    """Selectors that select nothing, or nothing that the mesh captures."""
    if not corpus.knows("Pod") and not corpus.workloads:
        return
    for kind in SELECTING:
        for item in corpus.items(kind):
            labels = texts(item.spec["selector"]["matchLabels"])
            if item.spec["targetRefs"].given or item.spec["targetRef"].given:
                continue
            found = corpus.selected(item.namespace, labels)
            if labels and not found:
                shown = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
                text = f"selects nothing: no workload in {item.namespace} has {shown}"
                yield item.says(
                    codes.SELECTS_NOTHING,
                    text,
                    _similar(corpus, item, labels),
                    field="spec.selector",
                )
            elif found and all(corpus.captured(one) is False for one in found):
                if item.namespace == corpus.facts.root_namespace and not labels:
                    continue
                text = f"none of the {len(found)} workloads it is for is in the mesh"
                remedy = (
                    f"kubectl label namespace {item.namespace} {objects.AMBIENT_MODE_LABEL}=ambient"
                )
                yield item.says(codes.POLICY_OUTSIDE_MESH, text, remedy)


def _similar(corpus: Corpus, item: Item, labels: dict[str, str]) -> str:
    key = min(labels)
    there = {one.labels[key] for one in corpus.selected(item.namespace, None) if key in one.labels}
    if there:
        return f"values of {key} there: {', '.join(sorted(there)[:5])}"
    elsewhere = {one.namespace for one in corpus.workloads if labels.items() <= one.labels.items()}
    if elsewhere:
        return f"there are such workloads in {', '.join(sorted(elsewhere))}: move the policy there"
    return "correct the labels"


def principals(corpus: Corpus) -> Iterator[Finding]:
    """Identities and namespaces that nobody has."""
    for item in corpus.items("AuthorizationPolicy"):
        for rule in item.spec["rules"].items():
            for entry in rule["from"].items():
                source = entry["source"]
                for name in ("principals", "notPrincipals"):
                    for one in source[name].items():
                        yield from _principal(corpus, item, one)
                for name in ("namespaces", "notNamespaces"):
                    for one in source[name].items():
                        yield from _namespace(corpus, item, one)
                for name in ("serviceAccounts", "notServiceAccounts"):
                    for one in source[name].items():
                        where, _, account = one.text().rpartition("/")
                        yield from _account(corpus, item, one, where or item.namespace, account)


def _principal(corpus: Corpus, item: Item, field: Field) -> Iterator[Finding]:
    text = field.text()
    parts = text.split("/")
    if "*" in text or not text or text.startswith("spiffe://"):
        return  # a pattern, or what validation refuses
    if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
        yield item.says(
            codes.UNKNOWN_PRINCIPAL,
            f"{field.path}: {text!r} is no identity",
            "write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
            field=field.path,
        )
        return
    domain, namespace, account = parts[0], parts[2], parts[4]
    if domain not in (corpus.facts.trust_domain, "cluster.local"):
        yield item.says(
            codes.UNKNOWN_PRINCIPAL,
            f"{field.path}: {text!r} is of trust domain {domain}, "
            f"this mesh is {corpus.facts.trust_domain}",
            f"write {corpus.facts.trust_domain}/ns/{namespace}/sa/{account}",
            field=field.path,
            severity=Severity.INFO,
        )
        return
    yield from _account(corpus, item, field, namespace, account)


def _account(
    corpus: Corpus, item: Item, field: Field, namespace: str, account: str
) -> Iterator[Finding]:
    if not corpus.has_namespace(namespace):
        text = f"{field.path}: there is no namespace {namespace}"
        yield item.says(codes.UNKNOWN_PRINCIPAL, text, "correct the name", field=field.path)
    elif "ServiceAccount" in corpus.listed and not corpus.get("ServiceAccount", namespace, account):
        there = [one.ref.key.name for one in corpus.items("ServiceAccount", namespace)]
        text = f"{field.path}: there is no service account {account} in {namespace}"
        remedy = f"accounts there: {', '.join(there[:8])}" if there else "correct the name"
        yield item.says(codes.UNKNOWN_PRINCIPAL, text, remedy, field=field.path)


def _namespace(corpus: Corpus, item: Item, field: Field) -> Iterator[Finding]:
    name = field.text()
    if name and "*" not in name and not corpus.has_namespace(name):
        text = f"{field.path}: there is no namespace {name}"
        yield item.says(codes.UNKNOWN_PRINCIPAL, text, "correct the name", field=field.path)
