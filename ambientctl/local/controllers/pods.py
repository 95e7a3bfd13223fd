"""Facts about pods that several controllers ask for, and pods made from a template."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from ambientctl.local.apiserver.core.kinds import PODS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change, Store
from ambientctl.local.controllers.loop import Key

FINISHED: Final = frozenset({"Succeeded", "Failed"})
_HASH_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # apimachinery util/rand.SafeEncodeString


def phase(pod: Object) -> str:
    """The pod's phase."""
    return str((pod.get("status") or {}).get("phase", ""))


def is_ready(pod: Object) -> bool:
    """Does the kubelet report the pod ready?"""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def is_terminating(pod: Object) -> bool:
    """Has somebody deleted the pod?"""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Object) -> bool:
    """Does the pod count for its owner: neither finished nor on its way out?"""
    return phase(pod) not in FINISHED and not is_terminating(pod)


def controller_of(obj: Object) -> Object | None:
    """The owner reference of the managing owner."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def owner_keys(change: Change, kind: str) -> list[Key]:
    """The managing owner of a changed object, when it is of this kind."""
    owner = controller_of(change.object)
    if owner is None or owner["kind"] != kind:
        return []
    return [(change.object["metadata"]["namespace"], owner["name"])]


def owned(store: Store, resource: tuple[str, str], owner: Object) -> list[Object]:
    """Objects in the owner's namespace that it manages."""
    metadata = owner["metadata"]
    found = store.objects(resource, metadata["namespace"])
    return [obj for obj in found if (controller_of(obj) or {}).get("uid") == metadata["uid"]]


def owner_reference(owner: Object) -> Object:
    """A reference that makes ``owner`` the managing owner."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def template_hash(template: Object) -> str:
    """A short name for a pod template: equal templates, equal hashes."""
    digest = hashlib.sha256(msgspec.json.encode(template, order="deterministic")).digest()
    number = int.from_bytes(digest[:4], "big")
    return "".join(_HASH_ALPHABET[ord(digit) % len(_HASH_ALPHABET)] for digit in str(number))


def pod_from(owner: Object, labels: Object | None = None) -> Object:
    """A pod of the owner's template, to be named by the server."""
    template = owner["spec"]["template"]
    metadata = template.get("metadata") or {}
    made: Object = {
        "generateName": f"{owner['metadata']['name']}-",
        "namespace": owner["metadata"]["namespace"],
        "labels": {**(metadata.get("labels") or {}), **(labels or {})},
        "ownerReferences": [owner_reference(owner)],
    }
    for field in ("annotations", "finalizers"):
        if metadata.get(field):
            made[field] = metadata[field]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": template["spec"]}


def pods_of(store: Store, owner: Object) -> list[Object]:
    """The pods that the owner manages."""
    return owned(store, PODS, owner)
