"""Labels that ask for waypoints, waypoints that nobody asks for, and L7 objects without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ambient.kube.core import objects
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Code, Finding, Severity
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.statuses import WAYPOINT_MISSING
from istiod_lite.core.waypoints import (
    CANARY_LABEL,
    OPT_OUT,
    WAYPOINT_CLASS,
    Binding,
    Reason,
)

USE: Final = objects.USE_WAYPOINT_LABEL
_TEXTS: Final[dict[Reason, tuple[Code, str, str]]] = {
    Reason.DENIED: (
        codes.WAYPOINT_FORBIDDEN,
        "waypoint {gateway} does not let namespace {namespace} attach",
        "open allowedRoutes.namespaces of its listener",
    ),
    Reason.OTHER_NAMESPACE: (
        codes.WAYPOINT_FORBIDDEN,
        "visible in its own namespace only, so that waypoint {gateway} cannot serve it",
        "use a waypoint of the same namespace, or make the entry public",
    ),
    Reason.OTHER_TRAFFIC: (
        codes.WAYPOINT_TRAFFIC,
        "waypoint {gateway} is not for traffic that addresses this",
        f"label the Gateway {objects.WAYPOINT_FOR_LABEL}=all, or remove the label here",
    ),
}


def bindings(corpus: Corpus) -> Iterator[Finding]:
    """Everybody who asks for a waypoint and does not get it; once where a namespace asks."""
    told: set[tuple[ObjectRef, ObjectKey, Reason]] = set()
    for ref, binding in sorted(corpus.index.bindings.items()):
        item = corpus.at(ref)
        if item is None or binding.gateway is None:
            continue
        yield from _canary(item, binding)
        if binding.accepted:
            continue
        if binding.inherited:
            namespace = corpus.get("Namespace", "", ref.key.namespace)
            if binding.reason is Reason.OTHER_TRAFFIC or namespace is None:
                continue  # a namespace's waypoint need not be for everything in it
            item = namespace
        key = (item.ref, binding.gateway, binding.reason)
        if key not in told:
            told.add(key)
            yield from _unbound(corpus, item, binding, binding.gateway)


def _unbound(corpus: Corpus, item: Item, binding: Binding, gateway: ObjectKey) -> Iterator[Finding]:
    field = f"metadata.labels.{USE}"
    if binding.reason is Reason.NOT_READY:
        yield _missing(corpus, item, gateway, field)
        return
    known = _TEXTS.get(binding.reason)
    if known is not None:
        code, text, remedy = known
        namespace = item.namespace or item.ref.key.name
        text = text.format(gateway=gateway, namespace=namespace) + "; traffic goes past it"
        yield item.says(code, text, remedy, field=field)


def _missing(corpus: Corpus, item: Item, gateway: ObjectKey, field: str) -> Finding:
    found = corpus.get("Gateway", gateway.namespace, gateway.name)
    if found is None:
        text = f"label {USE}: there is no waypoint {gateway}; L7 policies and routes do not apply"
        remedy = f"ambientctl waypoint apply -n {gateway.namespace} --name {gateway.name}"
        return item.says(codes.WAYPOINT_MISSING, text, remedy, field=field)
    text = f"label {USE}: waypoint {gateway} is not ready; traffic goes past it"
    remedy = f"ambientctl waypoint status -n {gateway.namespace} --name {gateway.name}"
    return item.says(codes.WAYPOINT_MISSING, text, remedy, field=field, severity=Severity.WARNING)


def _canary(item: Item, binding: Binding) -> Iterator[Finding]:
    if binding.canary_reason in (Reason.NOT_ASKED, Reason.ACCEPTED):
        return
    text = f"canary waypoint {binding.canary} gets no traffic ({binding.canary_reason.value})"
    remedy = "correct the canary's labels and weight, or deploy it"
    yield item.says(codes.WAYPOINT_LABEL, text, remedy, field=f"metadata.labels.{CANARY_LABEL}")


def namespaces_asking(corpus: Corpus) -> Iterator[Finding]:
    """Labels on namespaces where nothing is bound yet, or nothing is captured."""
    bound = {
        (ref.key.namespace, one.gateway)
        for ref, one in corpus.index.bindings.items()
        if one.inherited
    }
    for item in corpus.items("Namespace"):
        labels, name = item.labels, item.ref.key.name
        where = labels.get(objects.USE_WAYPOINT_NAMESPACE_LABEL)
        wanted = labels.get(USE)
        field = f"metadata.labels.{USE}"
        if not wanted:
            if where:
                text = f"label {objects.USE_WAYPOINT_NAMESPACE_LABEL} without {USE} says nothing"
                yield item.says(codes.WAYPOINT_LABEL, text, f"name the waypoint: {USE}=NAME")
            continue
        if wanted == OPT_OUT:
            continue
        gateway = ObjectKey(where or name, wanted)
        if (name, gateway) not in bound and corpus.get("Gateway", *gateway) is None:
            yield _missing(corpus, item, gateway, field)
        if labels.get(objects.AMBIENT_MODE_LABEL) != "ambient":
            text = (
                f"uses waypoint {gateway} and is not in the mesh: calls of its own pods "
                "go past the waypoint"
            )
            remedy = f"kubectl label namespace {name} {objects.AMBIENT_MODE_LABEL}=ambient"
            yield item.says(codes.WAYPOINT_OUTSIDE_MESH, text, remedy, field=field)


def unused(corpus: Corpus) -> Iterator[Finding]:
    """Waypoints that no label names."""
    for item in corpus.items("Gateway"):
        if item.spec["gatewayClassName"].value != WAYPOINT_CLASS:
            continue
        if corpus.index.bindings.asking(item.ref.key) or _named_by_namespace(corpus, item):
            continue
        if item.labels.get(objects.WAYPOINT_FOR_LABEL) == "none":
            continue
        text = (
            f"nobody uses this waypoint: no namespace, Service or pod has {USE}={item.ref.key.name}"
        )
        remedy = (
            f"kubectl label namespace {item.namespace} {USE}={item.ref.key.name}, "
            f"or ambientctl waypoint delete -n {item.namespace} {item.ref.key.name}"
        )
        yield item.says(codes.WAYPOINT_UNUSED, text, remedy)


def _named_by_namespace(corpus: Corpus, gateway: Item) -> bool:
    for item in corpus.items("Namespace"):
        where = item.labels.get(objects.USE_WAYPOINT_NAMESPACE_LABEL) or item.ref.key.name
        if ObjectKey(where, item.labels.get(USE, "")) == gateway.ref.key:
            return True
    return False


def l7_objects(corpus: Corpus) -> Iterator[Finding]:
    """VirtualServices and DestinationRules that no waypoint acts on."""
    for kind, of in (("VirtualService", "hosts"), ("DestinationRule", "host")):
        for item in corpus.items(kind):
            if f"{kind}/{item.ref.key}" in corpus.acted_on:
                continue
            field = item.spec[of]
            names = field.texts() if kind == "VirtualService" else [field.text()]
            found = [corpus.find_host(name, item.namespace) for name in names if name]
            if not any(found) or (kind == "VirtualService" and not _for_mesh(item)):
                continue
            if all(one is None or one.ref.key.namespace != item.namespace for one in found):
                text = (
                    "hosts of other namespaces: only their own waypoints' namespaces may route them"
                )
                remedy = f"move it to the namespace of {field.path}"
            else:
                text = (
                    f"no waypoint serves {', '.join(map(repr, names))}: nothing acts on this {kind}"
                )
                remedy = f"ambientctl waypoint apply -n {item.namespace} --enroll-namespace"
            yield item.says(codes.WAYPOINT_NEEDED, text, remedy, field=field.path)
    for item in corpus.items("ServiceEntry"):
        for one in corpus.conditions(item):
            if one.type == WAYPOINT_MISSING:
                remedy = f"bind it to a waypoint: label {USE}"
                yield item.says(codes.WAYPOINT_NEEDED, one.message, remedy)


def _for_mesh(item: Item) -> bool:
    return "mesh" in (item.spec["gateways"].texts() or ["mesh"])
