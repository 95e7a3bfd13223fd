"""Events have two spellings, core/v1 and events.k8s.io/v1; they are stored in the older one."""

from __future__ import annotations

from typing import Final

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object

_RENAMED: Final = (
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
)
_NEW_GROUP: Final = "events.k8s.io"


def to_core(kind: Kind, obj: Object) -> Object:
    """What is stored for an object that a client sent."""
    if (kind.group, kind.kind) != (_NEW_GROUP, "Event"):
        return obj
    renamed = dict(_RENAMED)
    stored = {renamed.get(name, name): value for name, value in obj.items()}
    return {**stored, "apiVersion": "v1"}


def present(kind: Kind, obj: Object) -> Object:
    """The stored object as this kind spells it; the versions of a CRD share one form."""
    if obj.get("apiVersion") == kind.api_version:
        return obj
    if (kind.group, kind.kind) == (_NEW_GROUP, "Event"):
        renamed = {old: new for new, old in _RENAMED}
        obj = {renamed.get(name, name): value for name, value in obj.items()}
    return {**obj, "apiVersion": kind.api_version, "kind": kind.kind}
