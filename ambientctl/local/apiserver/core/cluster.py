"""The API's verbs on objects: what create, update, patch and delete do to the store.

Everything is synchronous, so a request sees and leaves a consistent store. Time and chance come in
through ``Surroundings``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any, Final, NamedTuple

import msgspec

from ambientctl.local.apiserver.core import (
    admission,
    builtin_types,
    crds,
    events,
    managed_fields,
    schema,
)
from ambientctl.local.apiserver.core.defaults import set_defaults
from ambientctl.local.apiserver.core.deletion import DeleteOptions, delete_decision, is_finished
from ambientctl.local.apiserver.core.kinds import (
    CRDS,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Catalogue,
    Kind,
)
from ambientctl.local.apiserver.core.patches import APPLY_PATCH, patched
from ambientctl.local.apiserver.core.selectors import Predicate
from ambientctl.local.apiserver.core.service_addresses import ServiceAddresses
from ambientctl.local.apiserver.core.status import (
    ApiError,
    Object,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from ambientctl.local.apiserver.core.store import Change, Store
from ambientctl.local.apiserver.core.validation import validate

SUFFIX_LENGTH: Final = 5
SUFFIX_ALPHABET: Final = (
    "bcdfghjklmnpqrstvwxz2456789"  # apimachinery util/rand: no vowels, no words
)
_FIXED: Final = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
)
_NOT_BY_STATUS: Final = ("ownerReferences", "finalizers")
_STATUS_FROM_CREATOR: Final = frozenset({"Node", "Namespace"})
"""Kinds with a status subresource whose creator may still set the status."""


class Surroundings(NamedTuple):
    """The world outside the core."""

    now: Callable[[], datetime.datetime]
    """Aware, UTC."""
    new_uid: Callable[[], str]
    suffix: Callable[[int], str]
    """So many characters of SUFFIX_ALPHABET."""


class Call(NamedTuple):
    """How a write was asked for."""

    manager: str = "ambientctl"
    dry_run: bool = False
    force: bool = False
    validation: str = "Ignore"
    """What to do with unknown fields: Strict refuses, Warn tells, Ignore drops."""
    warnings: list[str] = []  # noqa: RUF012 (the default is never appended to: nothing warns then)


class Cluster:
    """All objects of the cluster, and the rules of the API about them."""

    def __init__(self, surroundings: Surroundings, service_range: IPv4Network) -> None:
        self.store = Store()
        self.catalogue = Catalogue()
        self._around = surroundings
        self._addresses = ServiceAddresses(service_range)
        self.store.subscribe(SERVICES, self._addresses.follow)
        self.store.subscribe(CRDS, self._follow_crds)

    def now(self) -> str:
        """The present as Kubernetes writes it: RFC 3339, whole seconds, UTC."""
        return self._around.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def suffix(self, length: int = SUFFIX_LENGTH) -> str:
        """A random end for a generated name."""
        return self._around.suffix(length)

    def new_uid(self) -> str:
        """A uid that nothing has had."""
        return self._around.new_uid()

    def kind_of(self, obj: Any) -> Kind:
        """The kind of a manifest; raises a 400 that names what is not served."""
        if not isinstance(obj, dict) or not obj.get("kind") or not obj.get("apiVersion"):
            raise bad_request("Object 'Kind' or 'apiVersion' is missing in the manifest")
        kind = self.catalogue.of(str(obj["apiVersion"]), str(obj["kind"]))
        if kind is None:
            raise bad_request(
                f'no matches for kind "{obj["kind"]}" in version "{obj["apiVersion"]}"'
            )
        return kind

    # reading

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The stored object; raises a 404."""
        obj = self.store.get(kind.key, namespace if kind.namespaced else "", name)
        if obj is None:
            raise not_found(kind.group, kind.plural, name)
        return obj

    def select(self, kind: Kind, namespace: str, wanted: Predicate) -> list[Object]:
        """Stored objects that satisfy the selectors."""
        return [obj for obj in self.store.objects(kind.key, namespace) if wanted(obj)]

    # writing

    def create(self, kind: Kind, namespace: str, obj: Any, call: Call) -> Object:
        """Store a new object and return it as stored."""
        obj = self._read(kind, namespace, obj, call)
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + self.suffix()
        name = str(metadata.get("name") or "")
        if kind.namespaced:
            owner = self.store.get(NAMESPACES, "", namespace)
            admission.check_namespace(kind, name, owner, namespace)
        for field in (*_FIXED, "generation"):
            metadata.pop(field, None)
        metadata["uid"] = self._around.new_uid()
        metadata["creationTimestamp"] = self.now()
        if _has_generation(kind):
            metadata["generation"] = 1
        if "status" in kind.subresources and kind.kind not in _STATUS_FROM_CREATOR:
            obj.pop("status", None)
        self._complete(kind, obj, None)
        if self.store.get(kind.key, metadata.get("namespace", ""), metadata["name"]) is not None:
            raise already_exists(kind.group, kind.plural, metadata["name"])
        if kind.kind == "CustomResourceDefinition":
            obj["status"] = crds.accepted_status(obj, self.now())
        if "managedFields" not in metadata:
            write = managed_fields.Write(call.manager, self.now())
            metadata["managedFields"] = managed_fields.record_update(kind, None, obj, write)
        return obj if call.dry_run else self.store.put(kind.key, obj)

    def update(
        self, kind: Kind, namespace: str, name: str, obj: Any, call: Call, subresource: str = ""
    ) -> Object:
        """Replace an object, or one subresource of it, and return it as stored."""
        obj = self._read(kind, namespace, obj, call)
        if obj["metadata"].get("name", name) != name:
            raise bad_request(
                f"the name of the object ({obj['metadata']['name']}) does not match the name on "
                f"the URL ({name})"
            )
        live = self.get(kind, namespace, name)
        new = self._replacement(kind, live, obj, subresource)
        write = managed_fields.Write(call.manager, self.now())
        return self._write(kind, live, new, call, write)

    def patch(
        self,
        kind: Kind,
        address: tuple[str, str],
        media_type: str,
        body: Any,
        call: Call,
        subresource: str = "",
    ) -> tuple[Object, bool]:
        """Patch an object at (namespace, name); also tells whether an apply created it."""
        namespace, name = address
        write = managed_fields.Write(call.manager, self.now(), force=call.force)
        if media_type == APPLY_PATCH:
            return self._apply(kind, address, body, call, (write, subresource))
        live = self.get(kind, namespace, name)
        changed = patched(kind, _copy(live), media_type, body)
        changed = self._read(kind, namespace, changed, call)
        if changed["metadata"].get("name") != name:
            raise bad_request("the name of the object does not match the name on the URL")
        new = self._replacement(kind, live, changed, subresource)
        return self._write(kind, live, new, call, write), False

    def _apply(
        self,
        kind: Kind,
        address: tuple[str, str],
        config: Any,
        call: Call,
        how: tuple[managed_fields.Write, str],
    ) -> tuple[Object, bool]:
        """Server-side apply, which alone may create what it patches.

        A subresource can only be applied to an object that exists.
        """
        namespace, name = address
        write, subresource = how
        config = self._read(kind, namespace, config, call)
        if config["metadata"].setdefault("name", name) != name:
            raise bad_request("the name of the object does not match the name on the URL")
        live = self.store.get(kind.key, namespace if kind.namespaced else "", name)
        if live is None:
            if subresource:
                raise not_found(kind.group, kind.plural, name)
            new = managed_fields.apply(kind, None, config, write)
            return self.create(kind, namespace, new, call), True
        asked = config["metadata"].get("resourceVersion")
        merged = managed_fields.apply(kind, _copy(live), config, write)
        if asked:
            merged["metadata"]["resourceVersion"] = asked
        entries = merged["metadata"]["managedFields"]
        new = self._replacement(kind, live, merged, subresource)
        new["metadata"]["managedFields"] = entries
        return self._write(kind, live, new, call, None), False

    def delete(
        self, kind: Kind, namespace: str, name: str, options: DeleteOptions, call: Call
    ) -> Object:
        """Delete an object or mark it for deletion; returns its last known form."""
        live = self.get(kind, namespace, name)
        options.check(kind, live)
        decided = delete_decision(kind, live, options, self._around.now())
        if call.dry_run or options.dry_run:
            return decided or live
        if decided is None:
            return self.store.remove(kind.key, *_address(live)) or live
        if decided == live:
            return live
        return self._settle(kind, decided)

    # what the verbs share

    def _read(self, kind: Kind, namespace: str, sent: Any, call: Call) -> Object:
        """A private, well-formed copy of what the client sent."""
        if not isinstance(sent, dict):
            raise bad_request("the body of the request must be one object")
        obj = _copy(sent)
        if not isinstance(obj.setdefault("metadata", {}), dict):
            raise bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                "metadata must be an object"
            )
        self._check_type(kind, obj)
        metadata = obj["metadata"]
        if kind.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the "
                    f"request ({metadata['namespace']!r}, {namespace!r})"
                )
        else:
            metadata.pop("namespace", None)
        if kind.schema is not None:
            unknown = builtin_types.conform_metadata(kind, obj)
            self._note_unknown([*unknown, *schema.prune(kind.schema, obj)], call)
        else:
            self._note_unknown(builtin_types.conform(kind, obj), call)
        return events.to_core(kind, obj)

    def _check_type(self, kind: Kind, obj: Object) -> None:
        """Refuse a body of another kind, or of a version that does not share its storage."""
        version = str(obj.setdefault("apiVersion", kind.api_version))
        name = obj.setdefault("kind", kind.kind)
        if name != kind.kind:
            raise bad_request(f'{name} in version "{version}" cannot be handled as a {kind.kind}')
        served = {k.api_version for k in self.catalogue.all() if k.key == kind.key}
        if version != kind.api_version and version not in served:
            raise bad_request(
                f"the API version in the data ({version}) does not match the expected API version "
                f"({kind.api_version})"
            )

    def _note_unknown(self, unknown: list[str], call: Call) -> None:
        """Deal with unknown fields as the caller asked; they are dropped anyway."""
        if unknown and call.validation == "Strict":
            text = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise bad_request(f"strict decoding error: {text}")
        if call.validation == "Warn":
            call.warnings.extend(f'unknown field "{path}"' for path in unknown)

    def _complete(self, kind: Kind, obj: Object, old: Object | None) -> None:
        """Defaults, admission and validation of an object that is about to be stored."""
        if kind.schema is not None:
            schema.fill(kind.schema, obj)
            causes = list(schema.check(kind.schema, obj))
            if causes:
                raise invalid(kind.group, kind.kind, obj["metadata"].get("name", ""), causes)
        set_defaults(kind, obj)
        if kind.kind == "Pod" and old is None:
            self._give_account(obj)
        validate(kind, obj, old)
        if kind.key == SERVICES:
            self._addresses.assign(obj)

    def _give_account(self, pod: Object) -> None:
        """Let a new pod run as its service account; raises a 403 when there is no such account."""
        spec = pod["spec"]
        name = spec.setdefault("serviceAccountName", "default")
        spec["serviceAccount"] = name
        namespace = pod["metadata"]["namespace"]
        account = self.store.get(SERVICE_ACCOUNTS, namespace, name)
        if account is None and name == "default":
            # Made by a controller too; a pod right behind its namespace must not lose that race.
            kind = self.catalogue.of("v1", "ServiceAccount")
            assert kind is not None
            account = self.create(kind, namespace, {"metadata": {"name": name}}, Call())
        if account is None:
            why = (
                f"error looking up service account {namespace}/{name}: "
                f'serviceaccount "{name}" not found'
            )
            raise forbidden("", "pods", pod["metadata"]["name"], why)
        admission.give_account(pod, account, self.suffix())

    def _replacement(self, kind: Kind, live: Object, new: Object, subresource: str) -> Object:
        """The new form with everything put back that this request must not change."""
        asked = new["metadata"].get("resourceVersion")
        if asked and asked != live["metadata"]["resourceVersion"]:
            raise conflict(kind.group, kind.plural, live["metadata"]["name"])
        if (uid := new["metadata"].get("uid")) and uid != live["metadata"]["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
                f"{live['metadata']['uid']}"
            )
            raise conflict(kind.group, kind.plural, live["metadata"]["name"], why)
        if subresource == "status":
            replaced = {**_copy(live), "status": new.get("status", {})}
            if kind.key == PODS:
                # Of a pod, whoever writes the status may also annotate it (podStatusStrategy).
                metadata = {**new["metadata"], **_only(live["metadata"], _NOT_BY_STATUS)}
                replaced["metadata"] = metadata
        else:
            replaced = dict(new)
            if "status" in kind.subresources:
                replaced.pop("status", None)
                if "status" in live:
                    replaced["status"] = live["status"]
        if kind.key == SERVICES and not (replaced.get("spec") or {}).get("clusterIP"):
            # A manifest that never named the address keeps the one it was given.
            kept = {k: live["spec"][k] for k in ("clusterIP", "clusterIPs") if k in live["spec"]}
            replaced["spec"] = {**(replaced.get("spec") or {}), **kept}
        metadata = replaced["metadata"] = dict(replaced["metadata"])
        for field in (*_FIXED, "generation", "resourceVersion", "generateName", "managedFields"):
            if field in live["metadata"]:
                metadata[field] = live["metadata"][field]
            else:
                metadata.pop(field, None)
        return replaced

    def _write(
        self,
        kind: Kind,
        live: Object,
        new: Object,
        call: Call,
        write: managed_fields.Write | None,
    ) -> Object:
        """Complete, count and store a changed object.

        An update that changes nothing is no write: no new revision, nobody is told. Without
        ``write`` the object brings its managedFields along (server-side apply).
        """
        new = _copy(new)
        self._complete(kind, new, live)
        if _has_generation(kind) and _intent(new) != _intent(live):
            new["metadata"]["generation"] = live["metadata"].get("generation", 0) + 1
        if new == live:
            return live
        if write is not None and _without_status(new) != _without_status(live):
            new["metadata"]["managedFields"] = managed_fields.record_update(kind, live, new, write)
        return new if call.dry_run else self._settle(kind, new)

    def _settle(self, kind: Kind, obj: Object) -> Object:
        """Store it, or let it go when it was only waiting for its last finalizer."""
        if is_finished(kind, obj):
            self.store.put(kind.key, obj)
            return self.store.remove(kind.key, *_address(obj)) or obj
        return self.store.put(kind.key, obj)

    def _follow_crds(self, change: Change) -> None:
        """Subscriber: the kinds of a deleted definition take their objects along."""
        crds.follow(self.catalogue, change)
        if change.kind == "DELETED":
            spec = change.object["spec"]
            key = (spec["group"], spec["names"]["plural"])
            for obj in self.store.objects(key):
                self.store.remove(key, *_address(obj))


def _copy(obj: Object) -> Object:
    """A deep copy; also proves that the object is plain JSON."""
    copied: Object = msgspec.json.decode(msgspec.json.encode(obj))
    return copied


def _only(obj: Object, names: tuple[str, ...]) -> Object:
    return {name: obj[name] for name in names if name in obj}


def _address(obj: Object) -> tuple[str, str]:
    """(namespace, name) as the store wants them."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _has_generation(kind: Kind) -> bool:
    """Core kinds have no metadata.generation, as on clusters up to 1.32."""
    return kind.custom or kind.group in {"apps", "policy", "autoscaling", "apiextensions.k8s.io"}


def _intent(obj: Object) -> Object:
    """What the generation counts: everything but metadata and status."""
    return {key: value for key, value in obj.items() if key not in {"metadata", "status"}}


def _without_status(obj: Object) -> Object:
    """For field ownership, which is tracked for the main resource only: a status is rewritten
    so often that its managedFields would outgrow the object.
    """
    return {key: value for key, value in obj.items() if key != "status"}


__all__ = ["ApiError", "Call", "Cluster", "Surroundings"]
