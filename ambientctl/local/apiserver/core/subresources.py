"""Subresources that are not just a part of their object: scale, binding, eviction, token."""

from __future__ import annotations

import datetime
from typing import Any

from ambientctl.local.apiserver.core.builtin_types import conform_as
from ambientctl.local.apiserver.core.cluster import Call, Cluster
from ambientctl.local.apiserver.core.deletion import DeleteOptions, read_options
from ambientctl.local.apiserver.core.kinds import NODES, PODS, SECRETS, Kind
from ambientctl.local.apiserver.core.patches import patched
from ambientctl.local.apiserver.core.status import (
    Object,
    bad_request,
    bad_value,
    conflict,
    invalid,
    not_found,
)
from ambientctl.local.apiserver.core.tokens import MIN_LIFETIME_S, TokenAuthority


def scale_of(obj: Object) -> Object:
    """The ``autoscaling/v1`` Scale of a Deployment or ReplicaSet."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        },
    }


def set_scale(
    cluster: Cluster, kind: Kind, address: tuple[str, str], scale: Any, call: Call
) -> Object:
    """Put the replicas of a Scale into its object; returns the new Scale."""
    namespace, name = address
    live = cluster.get(kind, namespace, name)
    scale = conform_as("autoscaling", "Scale", scale)
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if replicas < 0:
        cause = bad_value("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid("autoscaling", "Scale", name, [cause])
    revision = (scale.get("metadata") or {}).get("resourceVersion")
    if revision and revision != live["metadata"]["resourceVersion"]:
        raise conflict(kind.group, kind.plural, name)
    changed = {**live, "spec": {**live["spec"], "replicas": replicas}}
    return scale_of(cluster.update(kind, namespace, name, changed, call))


def patch_scale(
    cluster: Cluster, kind: Kind, address: tuple[str, str], media_type: str, body: Any, call: Call
) -> Object:
    """Patch the Scale of an object."""
    scale = scale_of(cluster.get(kind, *address))
    return set_scale(cluster, kind, address, patched(kind, scale, media_type, body), call)


def bind(cluster: Cluster, namespace: str, name: str, node: str) -> Object:
    """Give the pod to a node, once; raises a 409 for a pod that has one."""
    kind = cluster.catalogue.at(PODS)
    assert kind is not None
    pod = cluster.get(kind, namespace, name)
    if pod["spec"].get("nodeName"):
        why = f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        raise conflict("", "pods/binding", name, why)
    if not node:
        raise bad_request("a Binding needs target.name: the node")
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": cluster.now()}
    status = pod.get("status") or {}
    others = [c for c in status.get("conditions") or () if c.get("type") != "PodScheduled"]
    bound = {
        **pod,
        "spec": {**pod["spec"], "nodeName": node},
        "status": {**status, "conditions": [*others, condition]},
    }
    return cluster.store.put(PODS, bound)


def evict(cluster: Cluster, kind: Kind, address: tuple[str, str], body: Any, call: Call) -> Object:
    """Delete a pod on behalf of a drain; disruption budgets are stored and not enforced."""
    body = conform_as("policy", "Eviction", body)
    options: DeleteOptions = read_options(body.get("deleteOptions"), None, None)
    return cluster.delete(kind, *address, options, call)


def request_token(
    cluster: Cluster, authority: TokenAuthority, account: Object, body: Any, now: datetime.datetime
) -> Object:
    """Answer a TokenRequest; raises 422, 404 and 409 as the real server does."""
    body = conform_as("authentication.k8s.io", "TokenRequest", body)
    spec = body.get("spec") or {}
    name = account["metadata"]["name"]
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < MIN_LIFETIME_S:
        why = "may not specify a duration less than 10 minutes"
        cause = bad_value("spec.expirationSeconds", seconds, why)
        raise invalid("authentication.k8s.io", "TokenRequest", name, [cause])
    bound = _bound_object(cluster, account, spec.get("boundObjectRef"))
    issued = authority.issue(account, body, bound, int(now.timestamp()))
    expires = datetime.datetime.fromtimestamp(issued["expires_s"], datetime.UTC)
    status = {
        "token": issued["token"],
        "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    asked = {"expirationSeconds": issued["expires_s"] - int(now.timestamp()), **spec}
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": account["metadata"]["namespace"]},
        "spec": {**asked, "audiences": spec.get("audiences") or [authority.issuer]},
        "status": status,
    }


def _bound_object(cluster: Cluster, account: Object, reference: Any) -> Object | None:
    """The object a token is to be bound to; raises as described for ``request_token``."""
    if not reference:
        return None
    keys = {"Pod": PODS, "Secret": SECRETS, "Node": NODES}
    key = keys.get(reference.get("kind"))
    if key is None:
        raise bad_request(f"cannot bind token to object of type {reference.get('kind')}")
    namespace = "" if key == NODES else account["metadata"]["namespace"]
    found = cluster.store.get(key, namespace, reference.get("name", ""))
    if found is None:
        raise not_found(*key, reference.get("name", ""))
    wanted = reference.get("uid")
    if wanted and wanted != found["metadata"]["uid"]:
        why = (
            f"the UID in the bound object reference ({wanted}) does not match the UID in record. "
            "The object might have been deleted and then recreated"
        )
        raise conflict(*key, reference["name"], why)
    if key == PODS:
        runs_as = found["spec"].get("serviceAccountName")
        if runs_as != account["metadata"]["name"]:
            raise bad_request(
                f"cannot bind token for serviceaccount {account['metadata']['name']!r} to pod "
                f"running with different serviceaccount name {runs_as!r}."
            )
    return found
