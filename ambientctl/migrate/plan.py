"""What a namespace with sidecars needs before it can do without them (istio.io ambient/migrate).

Pure: objects in, steps and obstacles out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ambient.kube.core import objects
from ambientctl.migrate.translation import TRANSLATED, Translation, is_narrowed, translate
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.waypoints import WAYPOINT_CLASS

INJECTION: Final = ("istio-injection", "istio.io/rev")
L7_OPERATIONS: Final = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
L7_SOURCES: Final = ("requestPrincipals", "notRequestPrincipals", "remoteIpBlocks")
L7_KINDS: Final = ("RequestAuthentication", "WasmPlugin", "EnvoyFilter")


class Obstacle(NamedTuple):
    """Something that would not hold without sidecars, and what to do before."""

    item: str
    text: str
    remedy: str


class Plan(NamedTuple):
    """Of one namespace. ``obstacles`` close the gate."""

    namespace: str
    sidecars: int
    labels: dict[str, str]
    """Labels that inject, to be removed."""
    waypoint: str
    """Name of the waypoint that is needed; empty where nothing looks into HTTP."""
    waypoint_ready: bool
    obstacles: tuple[Obstacle, ...]
    translations: tuple[Translation, ...] = ()
    """Policies that the waypoint gets a copy of."""
    neighbours: tuple[str, ...] = ()
    """Other namespaces with sidecars: what they call goes past waypoints."""

    @property
    def open(self) -> bool:
        """Whether the namespace may be moved."""
        return not self.obstacles and (self.waypoint_ready or not self.waypoint)


def candidates(corpus: Corpus) -> list[str]:
    """Namespaces with sidecars or a label that brings them."""
    found = {one.namespace for one in corpus.workloads if one.sidecar}
    for item in corpus.items("Namespace"):
        if item.labels.get("istio-injection") == "enabled":
            found.add(item.ref.key.name)
    return sorted(found)


def plan(corpus: Corpus, namespace: str) -> Plan:
    """Look at a namespace."""
    labels = corpus.namespace_labels(namespace) or {}
    needs = any(True for _ in _l7(corpus, namespace))
    name = labels.get(objects.USE_WAYPOINT_LABEL) or "waypoint"
    return Plan(
        namespace=namespace,
        sidecars=sum(one.sidecar and one.ref.kind == "Pod" for one in corpus.workloads
                     if one.namespace == namespace),
        labels={key: labels[key] for key in INJECTION if key in labels},
        waypoint=name if needs else "",
        waypoint_ready=_ready(corpus, namespace, name),
        obstacles=(*_untranslated(corpus, namespace), *_obstacles(corpus, namespace)),
        translations=tuple(
            one for _, one in _translations(corpus, namespace) if isinstance(one, Translation)
        ),
        neighbours=tuple(one for one in candidates(corpus) if one != namespace),
    )  # fmt: skip


def _ready(corpus: Corpus, namespace: str, name: str) -> bool:
    item = corpus.get("Gateway", namespace, name)
    if item is None or item.spec["gatewayClassName"].value != WAYPOINT_CLASS:
        return False
    return any(
        one["type"].value == "Programmed" and one["status"].value == "True"
        for one in item.root["status"]["conditions"].items()
    )


def _l7(corpus: Corpus, namespace: str) -> Iterator[Item]:
    """Objects that need somebody who looks into HTTP."""
    for kind in ("VirtualService", "DestinationRule", *L7_KINDS):
        yield from corpus.items(kind, namespace)
    for item in corpus.items("AuthorizationPolicy", namespace):
        if is_l7(item):
            yield item


def is_l7(item: Item) -> bool:
    """Whether node tunnels cannot enforce a policy as it is written."""
    if item.spec["action"].value in ("CUSTOM", "AUDIT"):
        return True
    for rule in item.spec["rules"].items():
        if any(one["operation"][f].given for one in rule["to"].items() for f in L7_OPERATIONS):
            return True
        if any(one["source"][f].given for one in rule["from"].items() for f in L7_SOURCES):
            return True
        if any(one["key"].text().startswith("request.") for one in rule["when"].items()):
            return True
    return False


def _translations(corpus: Corpus, namespace: str) -> Iterator[tuple[Item, Translation | str]]:
    for kind in TRANSLATED:
        for item in corpus.items(kind, namespace):
            looks = kind != "AuthorizationPolicy" or is_l7(item)
            if looks and not _targeted(item) and not is_narrowed(item):
                yield item, translate(corpus, item)


def _untranslated(corpus: Corpus, namespace: str) -> Iterator[Obstacle]:
    for item, found in _translations(corpus, namespace):
        if isinstance(found, str):
            text = f"looks into HTTP and selects pods: node tunnels cannot enforce it, and {found}"
            yield Obstacle(
                str(item.ref), text, "give a copy of it targetRefs to the Service, then delete it"
            )


def _obstacles(corpus: Corpus, namespace: str) -> Iterator[Obstacle]:
    for kind in ("EnvoyFilter", "WasmPlugin"):
        for item in corpus.items(kind, namespace):
            if kind == "WasmPlugin":
                remedy = "do without it, or use an HTTPRoute or a policy"
                yield Obstacle(str(item.ref), "waypoints run no WebAssembly", remedy)
            elif not _targeted(item):
                text = "selects pods, and waypoints act by targetRefs"
                yield Obstacle(str(item.ref), text, "give it targetRefs to the Service")
    for item in corpus.items("PeerAuthentication", namespace):
        if item.spec["mtls"]["mode"].value == "DISABLE":
            text = "DISABLE is not known in ambient mode: plain text is let in, no more"
            yield Obstacle(str(item.ref), text, "write PERMISSIVE")
    routed = {
        parent["name"].text()
        for kind in ("HTTPRoute", "GRPCRoute")
        for item in corpus.items(kind, namespace)
        for parent in item.spec["parentRefs"].items()
    }
    for item in corpus.items("VirtualService", namespace):
        for host in item.spec["hosts"].texts():
            if host.partition(".")[0] in routed:
                text = f"routes {host}, as an HTTPRoute does: only one of the two is taken"
                yield Obstacle(str(item.ref), text, "keep one kind")


def _targeted(item: Item) -> bool:
    return item.spec["targetRefs"].given or item.spec["targetRef"].given
