"""What the admission webhook would say, about objects that never went past it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.validation.objects import check
from istiod_lite.core.validation.report import Field

UNREACHABLE: Final = "is never reached"
"""How the webhook's warning about a route begins that stands behind one without a match."""
READ_BY_INDEX: Final = ("Pod", "Service", "EndpointSlice", "Node", "Namespace", "GatewayClass")
"""Kinds without a webhook of ours: what the index cannot read of them is an error here."""
SERVED: Final = {
    "networking.istio.io": ("v1",),
    "security.istio.io": ("v1",),
    "gateway.networking.k8s.io": ("v1",),
}
OTHER_SERVED: Final = {
    "ReferenceGrant": ("v1beta1", "v1"),
    "TCPRoute": ("v1alpha2", "v1"),
    "TLSRoute": ("v1alpha2", "v1alpha3", "v1"),
    "BackendTLSPolicy": ("v1alpha3", "v1"),
}
"""Gateway API's kinds that have no v1 in every release."""


def schema(corpus: Corpus) -> Iterator[Finding]:
    """Each object by itself."""
    for item in corpus.all():
        report = check(item.obj)
        for one in report.problems:
            yield item.says(
                codes.SCHEMA_ERROR, _text(one.field, one.text), one.remedy, field=one.field
            )
        for one in report.warnings:
            code = (
                codes.UNREACHABLE_RULE if one.text.startswith(UNREACHABLE) else codes.SCHEMA_WARNING
            )
            yield item.says(code, _text(one.field, one.text), one.remedy, field=one.field)
        yield from _version(item)
    for remark in corpus.index.remarks():
        if remark.kind in READ_BY_INDEX:
            for item in corpus.items(remark.kind, remark.key.namespace):
                if item.ref.key == remark.key:
                    yield item.says(codes.SCHEMA_ERROR, remark.text, remark.hint)


def _text(field: str, text: str) -> str:
    return f"{field}: {text}" if field else text


def _version(item: Item) -> Iterator[Finding]:
    group, _, version = item.root["apiVersion"].text().partition("/")
    served = OTHER_SERVED.get(item.ref.kind) or SERVED.get(group)
    if served and version and version not in served:
        text = f"apiVersion: {group}/{version} is an older version of {item.ref.kind}"
        remedy = (
            f"write {group}/{served[-1] if group != 'gateway.networking.k8s.io' else served[0]}"
        )
        yield item.says(codes.DEPRECATED, text, remedy, field="apiVersion")


DEPRECATED_FIELDS: Final = {
    ("AuthorizationPolicy", "targetRef"): "targetRefs, a list",
    ("RequestAuthentication", "targetRef"): "targetRefs, a list",
}


def deprecated(corpus: Corpus) -> Iterator[Finding]:
    """Fields with a successor."""
    for item in corpus.all():
        for (kind, name), successor in DEPRECATED_FIELDS.items():
            field = item.spec[name]
            if item.ref.kind == kind and field.present:
                text = f"{field.path} has a successor"
                yield item.says(codes.DEPRECATED, text, f"use {successor}", field=field.path)
    for item in corpus.items("DestinationRule"):
        for policy in (item.spec["trafficPolicy"], *_subset_policies(item)):
            simple = policy["loadBalancer"]["simple"]
            if simple.value == "LEAST_CONN":
                text = f"{simple.path}: LEAST_CONN has a successor"
                yield item.says(codes.DEPRECATED, text, "use LEAST_REQUEST", field=simple.path)
            errors = policy["outlierDetection"]["consecutiveErrors"]
            if errors.present:
                remedy = "use consecutive5xxErrors or consecutiveGatewayErrors"
                text = f"{errors.path} has a successor"
                yield item.says(codes.DEPRECATED, text, remedy, field=errors.path)
    for item in corpus.items("VirtualService"):
        for route in item.spec["http"].items():
            for old, new in (
                (route["mirrorPercent"], "mirrorPercentage"),
                (route["mirror_percent"], "mirrorPercentage"),
                (route["corsPolicy"]["allowOrigin"], "corsPolicy.allowOrigins"),
                (route["fault"]["delay"]["percent"], "fault.delay.percentage"),
                (route["fault"]["abort"]["percent"], "fault.abort.percentage"),
            ):
                if old.present:
                    text = f"{old.path} has a successor"
                    yield item.says(codes.DEPRECATED, text, f"use {new}", field=old.path)


def _subset_policies(item: Item) -> list[Field]:
    return [one["trafficPolicy"] for one in item.spec["subsets"].items()]


NEVER_READ: Final = {
    "Sidecar": "there are no sidecars; ztunnel and waypoints learn what they need on demand",
    "WasmPlugin": "waypoints here run no WebAssembly",
    "ProxyConfig": "proxies are configured by their environment; see the waypoint's parameters",
    "Gateway.networking.istio.io": "use a Gateway of gateway.networking.k8s.io",
}


def ignored_kinds(corpus: Corpus) -> Iterator[Finding]:
    """Kinds of Istio that an ambient mesh, or this one, does not read."""
    for item in corpus.all():
        if not item.group.endswith("istio.io"):
            continue
        remedy = NEVER_READ.get(item.ref.kind) or NEVER_READ.get(f"{item.ref.kind}.{item.group}")
        if remedy is not None:
            text = f"nobody in the mesh reads {item.ref.kind} ({item.group})"
            yield item.says(codes.KIND_IGNORED, text, remedy, severity=Severity.WARNING)
