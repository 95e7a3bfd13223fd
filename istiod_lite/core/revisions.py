"""Several control planes side by side: which objects are whose.

An object says it by label ``istio.io/rev``, or its namespace does. A tag is another name for a
revision, kept by an object with the labels ``istio.io/tag`` and ``istio.io/rev``, so that many
namespaces can change their revision at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

LABEL: Final = "istio.io/rev"
TAG_LABEL: Final = "istio.io/tag"
DEFAULT: Final = "default"

Labels = Mapping[str, str] | None


def reads(labels: Labels, names: Collection[str]) -> bool:
    """Whether a policy or route is for the revision with these names: unlabelled ones are for all
    (istio pilot/pkg/config/kube/crdclient, revision filter).
    """
    return not (labels or {}).get(LABEL) or (labels or {})[LABEL] in names


def runs(labels: Labels, namespace: Labels, names: Collection[str]) -> bool:
    """Whether a Gateway is deployed by the revision with these names: only one may do that, so
    unlabelled ones are the default's.
    """
    said = (labels or {}).get(LABEL) or (namespace or {}).get(LABEL) or DEFAULT
    return said in names


def tag_of(service: Mapping[str, Any]) -> tuple[str, str] | None:
    """The tag and its revision that a Service stands for."""
    labels = (service.get("metadata") or {}).get("labels") or {}
    tag, revision = labels.get(TAG_LABEL), labels.get(LABEL)
    return (str(tag), str(revision)) if tag and revision else None
