"""CustomResourceDefinitions: from the object to the kinds it makes the server serve."""

from __future__ import annotations

from typing import Any

from ambientctl.local.apiserver.core.kinds import Catalogue, Kind
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change


def kinds_of(crd: Object) -> list[Kind]:
    """One kind for every served version, the storage version first."""
    spec = crd["spec"]
    versions = sorted(spec["versions"], key=lambda version: not version.get("storage"))
    return [_kind(spec, version) for version in versions if version.get("served", True)]


def _kind(spec: Object, version: Object) -> Kind:
    names = spec["names"]
    subresources: Any = version.get("subresources") or {}
    return Kind(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=names["kind"],
        singular=names["singular"],
        list_kind=names["listKind"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=frozenset(name for name in ("status", "scale") if name in subresources),
        schema=version["schema"]["openAPIV3Schema"],
        columns=tuple(version.get("additionalPrinterColumns") or ()),
        custom=True,
    )


def accepted_status(crd: Object, at: str) -> Object:
    """The status of a CRD that is served, which ours are from the first moment."""
    conditions = [
        {
            "type": name,
            "status": "True",
            "lastTransitionTime": at,
            "reason": reason,
            "message": message,
        }
        for name, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    storing = [version["name"] for version in crd["spec"]["versions"] if version.get("storage")]
    return {
        "conditions": conditions,
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": storing,
    }


def follow(catalogue: Catalogue, change: Change) -> None:
    """Subscriber for changes of CRDs: keep the catalogue as the definitions say."""
    spec = (change.old or change.object)["spec"]
    catalogue.remove((spec["group"], spec["names"]["plural"]))
    if change.kind != "DELETED":
        for kind in kinds_of(change.object):
            catalogue.add(kind)
