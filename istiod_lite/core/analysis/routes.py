"""Gateway API's routes and Gateways: references, waypoints behind them, and duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item, canonical
from istiod_lite.core.analysis.finding import Code, Finding
from istiod_lite.core.inputs import ROUTE_KINDS

BY_REASON: Final[dict[str, tuple[Code, str]]] = {
    "BackendNotFound": (codes.NOT_FOUND, "correct backendRefs, or create the Service"),
    "InvalidDestination": (codes.NOT_FOUND, "name a port of the Service"),
    "InvalidKind": (codes.NOT_FOUND, "use a Service"),
    "RefNotPermitted": (codes.GRANT_MISSING, "create a ReferenceGrant in the backend's namespace"),
    "NoMatchingParent": (codes.NOT_FOUND, "correct parentRefs"),
    "NotAllowedByListeners": (
        codes.GRANT_MISSING,
        "let the listener's allowedRoutes include the route's namespace and kind",
    ),
    "NoMatchingListenerHostname": (codes.NOT_FOUND, "let hostnames and the listener's agree"),
    "NoWaypoint": (
        codes.WAYPOINT_NEEDED,
        "ambientctl waypoint apply --enroll-namespace, or label the Service istio.io/use-waypoint",
    ),
    "ParentRefConflict": (codes.ROUTES_CONFLICT, "name each parent once"),
}


def routes(corpus: Corpus) -> Iterator[Finding]:
    """Routes that do not do what they say."""
    for kind in ROUTE_KINDS:
        for item in corpus.items(kind):
            yield from _statuses(corpus, item)
            yield from _missing_gateways(corpus, item)
    yield from _same_matches(corpus)


def _statuses(corpus: Corpus, item: Item) -> Iterator[Finding]:
    told = {(one.reason, one.message) for one in corpus.conditions(item) if not one.met}
    for reason, text in sorted(told):
        code, remedy = BY_REASON.get(reason, (codes.NEGATIVE_CONDITION, ""))
        field = "spec.rules" if text.startswith("rules[") else "spec.parentRefs"
        yield item.says(code, text, remedy, field=field)


def _missing_gateways(corpus: Corpus, item: Item) -> Iterator[Finding]:
    for parent in item.spec["parentRefs"].items():
        if (parent["kind"].text() or "Gateway") != "Gateway":
            continue
        where, name = parent["namespace"].text() or item.namespace, parent["name"].text()
        if name and corpus.get("Gateway", where, name) is None:
            text = f"{parent.path}: there is no Gateway {where}/{name}"
            yield item.says(codes.NOT_FOUND, text, "correct the name", field=parent.path)


def _same_matches(corpus: Corpus) -> Iterator[Finding]:
    """Two routes at the same parent with the same hostnames and match."""
    seen: defaultdict[str, list[tuple[Item, str]]] = defaultdict(list)
    for kind in ROUTE_KINDS:
        for item in corpus.items(kind):
            hostnames = sorted(item.spec["hostnames"].texts())
            for parent in item.spec["parentRefs"].items():
                where = parent["namespace"].text() or item.namespace
                names = (parent["kind"].text() or "Gateway", where, parent["name"].text())
                place = (*names, parent["sectionName"].value, parent["port"].value)
                for rule in item.spec["rules"].items():
                    for match in rule["matches"].items() or [rule["matches"]]:
                        content = (kind, place, hostnames, match.value)
                        key = canonical(content)
                        seen[key].append((item, match.path))
    for found in seen.values():
        first, at = found[0]
        for item, path in found[1:]:
            if (item.ref, path) == (first.ref, at):
                continue
            text = f"{path} is the same as {at} of {first.ref} at the same parent"
            yield item.says(codes.ROUTES_CONFLICT, text, "merge the two", field=path)


def gateways(corpus: Corpus) -> Iterator[Finding]:
    """Listeners that exclude each other, and conditions of Gateways that say no."""
    for item in corpus.items("Gateway"):
        seen: dict[tuple[str, str], str] = {}
        for listener in item.spec["listeners"].items():
            key = (str(listener["port"].value), listener["hostname"].text())
            name = listener["name"].text()
            if key in seen:
                host = f" and hostname {key[1]!r}" if key[1] else ""
                text = (
                    f"{listener.path}: port {key[0]}{host} is also that of listener {seen[key]!r}"
                )
                remedy = "merge the listeners, or give each its own hostname"
                yield item.says(codes.LISTENERS_CONFLICT, text, remedy, field=listener.path)
            seen[key] = name
        for condition in item.root["status"]["conditions"].items():
            if condition["status"].value == "False" and condition["type"].text() in (
                "Accepted",
                "Programmed",
                "ResolvedRefs",
            ):
                reason, message = condition["reason"].text(), condition["message"].text()
                text = f"{condition['type'].text()}=False: {reason}: {message}"
                remedy = f"kubectl -n {item.namespace} describe gateway {item.ref.key.name}"
                yield item.says(codes.NEGATIVE_CONDITION, text, remedy)
