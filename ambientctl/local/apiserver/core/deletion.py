"""What a delete request does to an object: gone at once, or marked and waited for."""

from __future__ import annotations

import datetime
from typing import Any, Final, NamedTuple

from ambientctl.local.apiserver.core.builtin_types import conform_as
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object, bad_request, conflict

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
_POLICIES: Final = ("Background", "Foreground", "Orphan")


class DeleteOptions(NamedTuple):
    """How a deletion was asked for; None means the kind's own way."""

    grace_s: int | None = None
    policy: str = "Background"
    uid: str | None = None
    revision: str | None = None
    dry_run: bool = False

    def check(self, kind: Kind, live: Object) -> None:
        """Raise a 409 unless the preconditions hold."""
        metadata = live["metadata"]
        for noun, wanted, found in (
            ("UID", self.uid, metadata["uid"]),
            ("ResourceVersion", self.revision, metadata["resourceVersion"]),
        ):
            if wanted is not None and wanted != found:
                why = (
                    f"Precondition failed: {noun} in precondition: {wanted}, "
                    f"{noun} in object meta: {found}"
                )
                raise conflict(kind.group, kind.plural, metadata["name"], why)


def read_options(body: Any, grace: str | None, policy: str | None) -> DeleteOptions:
    """From the body of a DELETE and its query; raises a 400 for values that cannot be meant."""
    body = conform_as("meta.k8s.io", "DeleteOptions", body)
    seconds = body.get("gracePeriodSeconds", grace)
    chosen = body.get("propagationPolicy") or policy
    if chosen is None:
        chosen = "Orphan" if body.get("orphanDependents") else "Background"
    if chosen not in _POLICIES:
        raise bad_request(
            f"invalid propagationPolicy {chosen!r}: must be one of {', '.join(_POLICIES)}"
        )
    try:
        grace_s = None if seconds is None else int(seconds)
    except ValueError:
        raise bad_request(f"invalid gracePeriodSeconds {seconds!r}: must be a number") from None
    preconditions = body.get("preconditions") or {}
    revision = preconditions.get("resourceVersion")
    dry_run = "All" in (body.get("dryRun") or ())
    return DeleteOptions(grace_s, chosen, preconditions.get("uid"), revision, dry_run)


def delete_decision(
    kind: Kind, live: Object, options: DeleteOptions, now: datetime.datetime
) -> Object | None:
    """The object as it must be stored to wait for its end, or None: it goes at once."""
    metadata = live["metadata"]
    grace_s = _grace(kind, live, options)
    finalizers = list(metadata.get("finalizers") or ())
    added = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(options.policy)
    if added and added not in finalizers:
        finalizers.append(added)
    held = finalizers or ((live.get("spec") or {}).get("finalizers") and kind.kind == "Namespace")
    if not held and grace_s == 0:
        return None
    already = metadata.get("deletionTimestamp")
    no_sooner = already and grace_s >= metadata.get("deletionGracePeriodSeconds", 0)
    if no_sooner and finalizers == list(metadata.get("finalizers") or ()):
        return live
    marked = {**metadata}
    if finalizers:
        marked["finalizers"] = finalizers
    if not already or grace_s < metadata.get("deletionGracePeriodSeconds", 0):
        due = now + datetime.timedelta(seconds=grace_s)
        marked["deletionTimestamp"] = due.strftime("%Y-%m-%dT%H:%M:%SZ")
        marked["deletionGracePeriodSeconds"] = grace_s
    decided = {**live, "metadata": marked}
    if kind.kind == "Namespace":
        decided["status"] = {**(live.get("status") or {}), "phase": "Terminating"}
    return decided


def _grace(kind: Kind, live: Object, options: DeleteOptions) -> int:
    """Seconds a pod gets; anything that no kubelet runs gets none."""
    if (kind.group, kind.kind) != ("", "Pod"):
        return 0
    spec = live["spec"]
    over = (live.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    if not spec.get("nodeName") or over:
        return 0
    if options.grace_s is not None:
        return max(options.grace_s, 0)
    grace_s: int = spec.get("terminationGracePeriodSeconds", 30)
    return grace_s


def is_finished(kind: Kind, obj: Object) -> bool:
    """Was this only waiting, and does nothing hold it any more?"""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind.kind == "Namespace":
        return not (obj.get("spec") or {}).get("finalizers")
    return not metadata.get("deletionGracePeriodSeconds")
