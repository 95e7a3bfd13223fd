"""Policies at odds with each other: an ALLOW that a DENY takes back, duplicates, peer modes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item, canonical, texts
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.facts import ObjectRef
from istiod_lite.core.policies import DRY_RUN_ANNOTATION
from istiod_lite.core.statuses import ZTUNNEL_ACCEPTED

_LISTS: Final = ("from", "to", "when")
_PRINCIPAL: Final = re.compile(r"[^/*]+/ns/([^/*]+)/sa/.+")
_ACCOUNT: Final = re.compile(r"([^/*]+)/.+")


def authorization_conflicts(corpus: Corpus) -> Iterator[Finding]:
    """ALLOW rules all of whose connections a DENY of the same workloads refuses."""
    enforced = [
        item
        for item in corpus.items("AuthorizationPolicy")
        if item.annotations.get(DRY_RUN_ANNOTATION, "").lower() != "true"
    ]
    denies = [item for item in enforced if item.spec["action"].value == "DENY"]
    for item in enforced:
        if (item.spec["action"].text() or "ALLOW") != "ALLOW":
            continue
        for rule in item.spec["rules"].items():
            for deny in denies:
                at = _covering(deny, rule.value)
                if at and _same_workloads(corpus, item, deny):
                    text = (
                        f"{rule.path} never allows anything: AuthorizationPolicy {deny.ref.key}, "
                        f"{at}, denies all of it"
                    )
                    remedy = "remove one of the two, or narrow the DENY"
                    yield item.says(codes.POLICIES_CONFLICT, text, remedy, field=rule.path)
                    break
    yield from _duplicates(enforced)


def _same_workloads(corpus: Corpus, allow: Item, deny: Item) -> bool:
    """Whether whatever the ALLOW is for is also under the DENY."""
    root = corpus.facts.root_namespace
    if deny.namespace not in (allow.namespace, root):
        return False
    targets = _targets(allow)
    if targets or _targets(deny):
        return targets == _targets(deny) and allow.namespace == deny.namespace
    wide = texts(deny.spec["selector"]["matchLabels"])
    narrow = texts(allow.spec["selector"]["matchLabels"])
    return wide.items() <= narrow.items()


def _targets(item: Item) -> set[tuple[str, str]]:
    found = [*item.spec["targetRefs"].items(), item.spec["targetRef"]]
    return {(one["kind"].text(), one["name"].text()) for one in found if one.given}


def _covering(deny: Item, allow: Any) -> str:
    """The path of the DENY's rule that matches whatever the ALLOW's rule matches."""
    for rule in deny.spec["rules"].items():
        if _covers(_mapping(rule.value), _mapping(allow)):
            return rule.path
    return ""


def _covers(wide: dict[str, Any], narrow: dict[str, Any]) -> bool:
    for part in _LISTS:
        needed, given = wide.get(part), narrow.get(part)
        if not needed:
            continue
        if not isinstance(needed, list) or not isinstance(given, list) or not given:
            return False
        if part == "when":
            if not all(one in given for one in needed):
                return False
        elif not all(any(_entry_covers(one, other) for one in needed) for other in given):
            return False
    return True


def _entry_covers(wide: Any, narrow: Any) -> bool:
    """One ``from`` or ``to`` entry: every condition of the wide one is met by the narrow one."""
    for holder in ("source", "operation"):
        conditions, given = (
            _mapping(_mapping(wide).get(holder)),
            _with_namespaces(_mapping(_mapping(narrow).get(holder))),
        )
        for name, values in conditions.items():
            if name.startswith("not"):
                if given.get(name) != values:
                    return False
            elif not _values_cover(values, given.get(name)):
                return False
    return True


def _with_namespaces(source: dict[str, Any]) -> dict[str, Any]:
    """Principals and service accounts that are written out say their namespaces as well."""
    if "namespaces" in source:
        return source
    named = source.get("principals"), source.get("serviceAccounts")
    for values, pattern in zip(named, (_PRINCIPAL, _ACCOUNT), strict=True):
        found = [pattern.fullmatch(str(one)) for one in values] if isinstance(values, list) else []
        if found and all(found):
            return {**source, "namespaces": [one[1] for one in found if one is not None]}
    return source


def _values_cover(patterns: Any, values: Any) -> bool:
    if not isinstance(patterns, list) or not isinstance(values, list) or not values:
        return False
    return all(any(_pattern_covers(str(p), str(value)) for p in patterns) for value in values)


def _pattern_covers(pattern: str, value: str) -> bool:
    """Istio's patterns: exact, ``prefix*``, ``*suffix`` and ``*``."""
    if pattern in ("*", value):
        return True
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    return False


def _duplicates(items: list[Item]) -> Iterator[Finding]:
    seen: dict[tuple[str, str], ObjectRef] = {}
    for item in items:
        key = (item.namespace, canonical(item.spec.value))
        if key in seen:
            text = f"says the same as {seen[key]}"
            yield item.says(codes.POLICIES_CONFLICT, text, "remove one of the two")
        else:
            seen[key] = item.ref


def peer_authentications(corpus: Corpus) -> Iterator[Finding]:
    """PeerAuthentications that another one outdoes, or that say what no tunnel does."""
    for item in corpus.items("PeerAuthentication"):
        for one in corpus.conditions(item):
            if one.type == ZTUNNEL_ACCEPTED and not one.met:
                remedy = "merge the two, or remove one"
                yield item.says(codes.PEERS_CONFLICT, one.message, remedy)
        spec = item.spec
        modes = [
            spec["mtls"]["mode"],
            *(port["mode"] for _, port in spec["portLevelMtls"].entries()),
        ]
        for mode in modes:
            if mode.value == "DISABLE":
                text = f"{mode.path}: DISABLE lets plain text in; peers of the mesh still encrypt"
                yield item.says(codes.MODE_DISABLE, text, "write PERMISSIVE", field=mode.path)
        yield from _ports(corpus, item)
    yield from _overlapping(corpus)


def _overlapping(corpus: Corpus) -> Iterator[Finding]:
    """Selectors that differ and meet in a workload: the oldest policy decides there."""
    items = [
        (item, texts(item.spec["selector"]["matchLabels"]))
        for item in corpus.items("PeerAuthentication")
    ]
    items = [(item, labels) for item, labels in items if labels]
    for _, group in groupby(items, key=lambda pair: pair[0].namespace):
        several = list(group)
        for number, (item, labels) in enumerate(several):
            for other, others in several[:number]:
                if labels == others or item.spec.value == other.spec.value:
                    continue
                both = corpus.selected(item.namespace, {**labels, **others})
                if both and all(labels.get(k, v) == v for k, v in others.items()):
                    text = f"workload {both[0].ref.key} is also selected by {other.ref}"
                    remedy = "the older one decides there; let the selectors exclude each other"
                    yield item.says(codes.PEERS_CONFLICT, text, remedy, field="spec.selector")


def _ports(corpus: Corpus, item: Item) -> Iterator[Finding]:
    """Ports that are a Service's and no pod's: tunnels see the pod's."""
    labels = texts(item.spec["selector"]["matchLabels"])
    if not labels:
        return
    behind = corpus.selected(item.namespace, labels)
    declared = {port for one in behind for port in one.numbers}
    if not declared:
        return
    for number, field in item.spec["portLevelMtls"].entries():
        if not number.isdecimal() or int(number) in declared:
            continue
        for service in corpus.items("Service", item.namespace):
            for port in service.spec["ports"].items():
                if port["port"].value == int(number):
                    text = (
                        f"{field.path}: {number} is a port of {service.ref}, no pod listens there"
                    )
                    remedy = f"name the pod's port: one of {', '.join(map(str, sorted(declared)))}"
                    yield item.says(codes.PORT_IS_SERVICE_PORT, text, remedy, field=field.path)
                    break
            else:
                continue
            break


def scrapes(corpus: Corpus) -> Iterator[Finding]:
    """Metrics ports under STRICT, where the scraper is outside the mesh and has no identity."""
    outside = [
        one
        for one in corpus.workloads
        if "prometheus" in (one.labels.get("app.kubernetes.io/name"), one.labels.get("app"))
        and corpus.captured(one) is False
    ]
    if not outside:
        return
    told = set()
    for workload in corpus.workloads:
        port = workload.annotations.get("prometheus.io/port", "")
        if workload.annotations.get("prometheus.io/scrape") != "true" or not port.isdecimal():
            continue
        item = corpus.at(workload.ref)
        strict = corpus.captured(workload) and strict_at(corpus, workload.ref, int(port))
        key = (workload.namespace, workload.labels.get("app", workload.ref.key.name), port)
        if item is None or not strict or key in told:
            continue
        told.add(key)
        labels = {k: v for k, v in workload.labels.items() if k == "app"} or workload.labels
        shown = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
        scraper = outside[0].ref
        text = f"port {port} is scraped by {scraper}, outside the mesh: STRICT refuses it"
        remedy = (
            f"PeerAuthentication in {workload.namespace} with selector {shown} and "
            f'portLevelMtls: {{"{port}": {{mode: PERMISSIVE}}}}, or put the scraper into the mesh'
        )
        yield item.says(codes.SCRAPE_REFUSED, text, remedy)


def strict_at(corpus: Corpus, ref: ObjectRef, port: int) -> bool:
    """Whether a workload refuses plain text on a port, by the modes as they are written."""
    workload = next((one for one in corpus.workloads if one.ref == ref), None)
    if workload is None:
        return False
    world = corpus.index.world
    strict = world.inherited_strict(workload.namespace)
    for item in corpus.items("PeerAuthentication", workload.namespace):
        labels = texts(item.spec["selector"]["matchLabels"])
        if not labels or not labels.items() <= workload.labels.items():
            continue
        for mode in (item.spec["mtls"]["mode"], item.spec["portLevelMtls"][str(port)]["mode"]):
            if mode.text() not in ("", "UNSET"):
                strict = mode.text() == "STRICT"
        break
    return strict


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
