"""What a trial of policies cannot tell by traffic: that one is refused, or means nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ambient.kube.core.resources import KubeObject
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.facts import ObjectKey, ObjectRef


def doubts(
    cluster: Mapping[str, Iterable[KubeObject]], written: Iterable[Item], now: datetime
) -> list[Finding]:
    """Warnings and errors of ``ambientctl analyze`` about the objects of a trial, in a cluster
    whose objects are given by kind.
    """
    tried = {item.ref: item for item in written}
    there = [Item(_ref(kind, obj), obj) for kind, several in cluster.items() for obj in several]
    found = analyze(Corpus([*there, *tried.values()], now=now, listed=cluster))
    return [one for one in found if one.ref in tried and one.severity >= Severity.WARNING]


def _ref(kind: str, obj: KubeObject) -> ObjectRef:
    metadata = obj["metadata"]
    return ObjectRef(kind, ObjectKey(metadata.get("namespace", ""), metadata["name"]))
