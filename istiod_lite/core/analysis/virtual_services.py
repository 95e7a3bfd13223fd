"""VirtualServices among themselves, and beside Gateway API's routes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item, canonical
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.inputs import ROUTE_KINDS


def virtual_services(corpus: Corpus) -> Iterator[Finding]:
    """Hosts that several claim, routes that are never taken, and gateways that are not there."""
    by_host: defaultdict[str, list[Item]] = defaultdict(list)
    routed = _hosts_of_routes(corpus)
    for item in corpus.items("VirtualService"):
        gateways = item.spec["gateways"].texts() or ["mesh"]
        yield from _matches(item)
        if "mesh" not in gateways:
            text = (
                f"only for gateways {', '.join(gateways)}, and waypoints take routes of mesh only"
            )
            remedy = "add gateway mesh, or use an HTTPRoute on the Gateway"
            yield item.says(codes.KIND_IGNORED, text, remedy, field="spec.gateways")
            continue
        for host in dict.fromkeys(item.spec["hosts"].texts()):
            full = corpus.full_name(host, item.namespace)
            by_host[full].append(item)
            if full in routed:
                text = f"{routed[full]} routes {full} too, and only one of the two is taken"
                remedy = "keep one kind; Gateway API is the one that goes on"
                yield item.says(codes.ROUTES_MIXED, text, remedy, field="spec.hosts")
    for host, items in by_host.items():
        yield from _overlap(host, items)


def _overlap(host: str, items: list[Item]) -> Iterator[Finding]:
    if len(items) < 2:
        return
    for item in items:
        others = ", ".join(str(one.ref.key) for one in items if one is not item)
        yield item.says(
            codes.CONFLICTING_HOSTS,
            f"host {host} is also that of VirtualService {others}: only the oldest counts",
            "merge them into one",
            field="spec.hosts",
        )


def _hosts_of_routes(corpus: Corpus) -> dict[str, str]:
    """Names of Services on which routes of Gateway API hang."""
    found: dict[str, str] = {}
    for kind in ROUTE_KINDS:
        for item in corpus.items(kind):
            for parent in item.spec["parentRefs"].items():
                if parent["kind"].value == "Service":
                    where = parent["namespace"].text() or item.namespace
                    name = corpus.facts.hostname(ObjectKey(where, parent["name"].text()))
                    found.setdefault(name, str(item.ref))
    return found


def _matches(item: Item) -> Iterator[Finding]:
    """Matches that an earlier route of the same VirtualService has already."""
    seen: dict[str, str] = {}
    for route in item.spec["http"].items():
        matches = route["match"].items()
        repeated = 0
        for match in matches:
            content = {k: v for k, v in _mapping(match.value).items() if k != "name"}
            key = canonical(content)
            if key in seen:
                repeated += 1
                if len(matches) > 1:
                    text = f"{match.path} is the same as {seen[key]}, which comes first"
                    yield item.says(codes.INEFFECTIVE_MATCH, text, "remove it", field=match.path)
            else:
                seen[key] = match.path
        if matches and repeated == len(matches):
            text = f"{route.path} is never reached: earlier routes have all its matches"
            yield item.says(codes.UNREACHABLE_RULE, text, "remove or reorder it", field=route.path)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
