"""Annotations of the mesh: known, on the right kind, with a value that means something."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final, NamedTuple

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.analysis.workloads import TEMPLATES

PODS: Final = ("Pod",)


class Known(NamedTuple):
    """Kinds on which it is read, and its values where they are few."""

    kinds: tuple[str, ...]
    values: tuple[str, ...] = ()


_BOOL: Final = ("true", "false")
KNOWN: Final = {
    "ambient.istio.io/redirection": Known(PODS, ("enabled", "pending")),
    "ambient.istio.io/bypass-inbound-capture": Known(PODS, _BOOL),
    "ambient.istio.io/dns-capture": Known(PODS, _BOOL),
    "ambient.istio.io/redirection-backend": Known(PODS, ("nftables", "ebpf", "auto")),
    "ambient.istio.io/socket-map": Known(PODS, ("off", "send", "both")),
    "ambient.istio.io/waypoint-inbound-binding": Known(("Gateway", "GatewayClass")),
    "ambient.istio.io/xfcc-include-client-identity": Known(("Gateway", "GatewayClass"), _BOOL),
    "ambient.istio.io/node": Known(("WorkloadEntry",)),
    "istio.io/reroute-virtual-interfaces": Known(PODS),
    "istio.io/use-waypoint-canary-weight": Known(("Namespace", "Service", "ServiceEntry")),
    "istio.io/dry-run": Known(("AuthorizationPolicy",), _BOOL),
    "istio.io/connect-strategy": Known(
        ("ServiceEntry", "Service"), ("DEFAULT", "FIRST_HEALTHY_RACE", "RACE_FIRST_TCP_CONNECT")
    ),
    "networking.istio.io/traffic-distribution": Known(
        ("Namespace", "Service", "ServiceEntry"),
        ("PreferClose", "PreferSameZone", "PreferSameNode", "Any"),
    ),
    "networking.istio.io/service-type": Known(
        ("Gateway",), ("ClusterIP", "NodePort", "LoadBalancer")
    ),
    "networking.istio.io/exportTo": Known(("Service", "ServiceEntry")),
    "networking.istio.io/address-type": Known(("Gateway",)),
    "networking.istio.io/cluster": Known(("Secret",)),
    "gateway.istio.io/service-account": Known(("Gateway",)),
    "gateway.istio.io/name-override": Known(("Gateway",)),
    "gateway.istio.io/controller-version": Known(("Gateway",)),
    "gateway.istio.io/tls-terminate-mode": Known(("Gateway",)),
    "traffic.istio.io/nodeSelector": Known(("Service",)),
    "galley.istio.io/analyze-suppress": Known(()),
    "istio.io/rev": Known(()),
}
"""No kinds: any of them."""
OTHERS: Final = (
    "sidecar.istio.io/", "proxy.istio.io/", "inject.istio.io/", "prometheus.istio.io/",
    "readiness.status.sidecar.istio.io/", "status.sidecar.istio.io/", "install.operator.istio.io/",
    "operator.istio.io/", "internal.istio.io/", "cni.istio.io/", "topology.istio.io/",
    "security.istio.io/",
)  # fmt: skip
"""Of other modes or of programs; nothing here judges them."""
DEPRECATED: Final = {
    "traffic.sidecar.istio.io/kubevirtInterfaces": "istio.io/reroute-virtual-interfaces",
}


def of_objects(corpus: Corpus) -> Iterator[Finding]:
    """Of objects and of what pods are made from."""
    for item in corpus.all():
        yield from _of(item, item.ref.kind, item.annotations, "metadata.annotations")
    for workload in corpus.workloads:
        item_ = corpus.at(workload.ref)
        if item_ is not None and TEMPLATES.get(workload.ref.kind):
            path = f"{workload.path}.metadata.annotations"
            yield from _of(item_, "Pod", workload.annotations, path)


def _of(item: Item, kind: str, found: dict[str, str], path: str) -> Iterator[Finding]:
    for name, value in found.items():
        field = f"{path}.{name}"
        if name in DEPRECATED:
            text, remedy = f"{name} has a successor", f"use {DEPRECATED[name]}"
            yield item.says(codes.DEPRECATED_ANNOTATION, text, remedy, field=field)
            continue
        known = KNOWN.get(name)
        if known is None:
            yield from _unknown(item, name, field)
        elif known.kinds and kind not in known.kinds:
            remedy = f"it is read on {', '.join(known.kinds)}"
            text = f"annotation {name} says nothing on a {kind}"
            yield item.says(codes.MISPLACED_ANNOTATION, text, remedy, field=field)
        elif known.values and value not in known.values:
            text = f"annotation {name}: {value!r} means nothing"
            remedy = f"use one of {', '.join(known.values)}"
            yield item.says(codes.INVALID_ANNOTATION, text, remedy, field=field)
        elif name.endswith("-weight") and not (value.isdecimal() and int(value) <= 100):
            text = f"annotation {name}: {value!r} is no percentage"
            yield item.says(codes.INVALID_ANNOTATION, text, "use 0 to 100", field=field)


def _unknown(item: Item, name: str, field: str) -> Iterator[Finding]:
    prefix = name.partition("/")[0]
    if not (prefix == "istio.io" or prefix.endswith(".istio.io")) or name.startswith(OTHERS):
        return
    near = get_close_matches(name, KNOWN, 1, 0.8)
    remedy = f"did you mean {near[0]}?" if near else "remove it"
    yield item.says(codes.UNKNOWN_ANNOTATION, f"annotation {name} is unknown", remedy, field=field)
