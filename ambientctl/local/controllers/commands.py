"""What controllers decide to do, and the one place that does it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import NamedTuple, assert_never

from ambientctl.local.apiserver.core.cluster import Call, Cluster
from ambientctl.local.apiserver.core.deletion import DeleteOptions
from ambientctl.local.apiserver.core.kinds import EVENTS, Kind, StorageKey
from ambientctl.local.apiserver.core.status import ApiError, Object
from ambientctl.local.apiserver.core.subresources import bind


class Create(NamedTuple):
    """Make a new object; its metadata names the namespace."""

    resource: StorageKey
    object: Object


class Replace(NamedTuple):
    """Store a new form of an object, or of its status."""

    resource: StorageKey
    object: Object
    subresource: str = ""


class Delete(NamedTuple):
    """Delete an object in the way of ``options``."""

    resource: StorageKey
    namespace: str
    name: str
    options: DeleteOptions = DeleteOptions()


class Bind(NamedTuple):
    """Give a pod to a node."""

    namespace: str
    name: str
    node: str


class Record(NamedTuple):
    """Tell about an object what people should see in ``kubectl describe``."""

    about: Object
    type: str
    """Normal or Warning."""
    reason: str
    message: str
    component: str


Command = Create | Replace | Delete | Bind | Record


def perform(cluster: Cluster, command: Command, manager: str) -> None:
    """Do one command; raises ApiError when the API refuses it."""
    call = Call(manager)
    match command:
        case Create(resource, obj):
            kind = served(cluster, resource)
            try:
                cluster.create(kind, obj["metadata"].get("namespace", ""), obj, call)
            except ApiError as error:
                _tell_owner(cluster, obj, error, manager)
                raise
        case Replace(resource, obj, subresource):
            metadata = obj["metadata"]
            address = metadata.get("namespace", ""), metadata["name"]
            cluster.update(served(cluster, resource), *address, obj, call, subresource)
        case Delete(resource, namespace, name, options):
            cluster.delete(served(cluster, resource), namespace, name, options, call)
        case Bind(namespace, name, node):
            bind(cluster, namespace, name, node)
        case Record():
            record(cluster, command)
        case never:
            assert_never(never)


def served(cluster: Cluster, resource: StorageKey) -> Kind:
    """A served version of the resource."""
    kind = cluster.catalogue.at(resource)
    if kind is None:
        raise LookupError(f"no kind is served for {resource}")
    return kind


def _tell_owner(cluster: Cluster, obj: Object, error: ApiError, manager: str) -> None:
    """Let the owner's events say why an object could not be made for it."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        kind = cluster.catalogue.of(reference["apiVersion"], reference["kind"])
        namespace = obj["metadata"].get("namespace", "")
        owner = cluster.store.get(kind.key, namespace, reference["name"]) if kind else None
        if owner is not None:
            message = f"Error creating: {error.message}"
            record(cluster, Record(owner, "Warning", "FailedCreate", message, manager))


def record(cluster: Cluster, told: Record) -> None:
    """Write an event, or count one up that says the same about the same object."""
    metadata = told.about["metadata"]
    namespace = metadata.get("namespace") or "default"
    text = "\0".join((metadata["uid"], told.type, told.reason, told.message, told.component))
    name = f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    kind = served(cluster, EVENTS)
    now = cluster.now()
    known = cluster.store.get(EVENTS, namespace, name)
    if known is not None:
        counted = {**known, "count": known.get("count", 1) + 1, "lastTimestamp": now}
        cluster.update(kind, namespace, name, counted, Call(told.component))
        return
    event = {
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "kind": told.about["kind"],
            "apiVersion": told.about["apiVersion"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": told.type,
        "reason": told.reason,
        "message": told.message,
        "source": {"component": told.component},
        "reportingComponent": told.component,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    # A namespace that is going away takes no events: no reason to stop the work on it.
    with suppress(ApiError):
        cluster.create(kind, namespace, event, Call(told.component))
