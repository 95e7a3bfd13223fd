"""Policies of backends that do not hold for one of their targets, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.analysis.finding import Code, Finding
from istiod_lite.core.inputs import BACKEND_POLICY_KINDS

BY_REASON: Final[dict[str, tuple[Code, str]]] = {
    "TargetNotFound": (codes.NOT_FOUND, "correct targetRefs, or create the Service"),
    "Conflicted": (codes.POLICIES_CONFLICT, "merge the two, or let one name a port (sectionName)"),
    "NoValidCACertificate": (codes.NOT_FOUND, "name a ConfigMap that has ca.crt"),
    "InvalidCACertificateRef": (codes.NOT_FOUND, "name a ConfigMap that has ca.crt"),
    "InvalidKind": (codes.FIELD_IGNORED, "use a ConfigMap"),
}


def policies(corpus: Corpus) -> Iterator[Finding]:
    """What the status says of each target, and of the authorities."""
    for kind in BACKEND_POLICY_KINDS:
        for item in corpus.items(kind):
            told = {(one.reason, one.message) for one in corpus.conditions(item) if not one.met}
            for reason, text in sorted(told):
                code, remedy = BY_REASON.get(reason, (codes.NEGATIVE_CONDITION, ""))
                of_target = reason in ("TargetNotFound", "Conflicted")
                field = "spec.targetRefs" if of_target else "spec.validation"
                yield item.says(code, text, remedy, field=field)
