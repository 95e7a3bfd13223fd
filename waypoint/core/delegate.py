"""Rules that a VirtualService leaves to another one: both are merged before they are compiled.

One level (Istio pilot/pkg/model/virtualservice.go): the root's rule gives hosts and conditions, the
delegate's rules say what happens below them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ambient.api.config import ConfigObject
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import exported

Find = Callable[[str, str], ConfigObject | None]
"""The VirtualService with a namespace and a name."""
INHERITED: Final = (
    "rewrite", "directResponse", "timeout", "retries", "fault", "mirror", "mirrors",
    "mirrorPercent", "mirrorPercentage", "corsPolicy", "headers",
)  # fmt: skip
"""What a delegate's rule takes from the root's where it does not say it itself."""
EXCLUDED: Final = ("route", "redirect", "directResponse")
TEXTS: Final = ("scheme", "method", "authority")


class ConflictError(Exception):
    """Nothing can pass both matches."""


def delegates_of(config: ConfigObject) -> Iterator[tuple[str, str]]:
    """Namespace and name of the VirtualServices that an object leaves rules to."""
    spec = config.object.get("spec")
    rules = spec.get("http") if isinstance(spec, dict) else None
    for rule in rules if isinstance(rules, list) else ():
        found = rule.get("delegate") if isinstance(rule, dict) else None
        if isinstance(found, dict) and isinstance(found.get("name"), str):
            yield str(found.get("namespace") or config.namespace), found["name"]


def merged_rules(
    root: ConfigObject, rule: Json, field: str, find: Find
) -> tuple[ConfigObject, list[tuple[int, Json]], list[Problem]]:
    """The delegate, its rules as the root's rule admits them (each with its number), and what was
    left out. Raises UnusableError where nothing can be used.
    """
    spec = mapping(rule.get("delegate"), f"{field}.delegate")
    name = string(spec.get("name"), f"{field}.delegate.name")
    namespace = string(spec.get("namespace"), f"{field}.delegate.namespace") or root.namespace
    for other in EXCLUDED:
        if rule.get(other):
            raise UnusableError(f"{field}.delegate", f"excludes {other}")
    delegate = find(namespace, name)
    if delegate is None:
        raise UnusableError(f"{field}.delegate", f"there is no VirtualService {namespace}/{name}")
    inner = mapping(delegate.object.get("spec"), "spec")
    if inner.get("hosts"):
        raise UnusableError(f"{field}.delegate", f"{namespace}/{name} has hosts of its own")
    if not exported(strings(inner.get("exportTo"), "spec.exportTo"), namespace, root.namespace):
        raise UnusableError(f"{field}.delegate", f"{namespace}/{name} is not exported here")
    rules: list[tuple[int, Json]] = []
    problems: list[Problem] = []
    for number, item in enumerate(sequence(inner.get("http"), "spec.http")):
        where = f"spec.http[{number}]"
        one = mapping(item, where)
        merged = None if one.get("delegate") else _merge(rule, one)
        if merged is not None:
            rules.append((number, merged))
            continue
        reason = f"no match of it agrees with those of {root.namespace}/{root.name}"
        if one.get("delegate"):
            reason = "a delegate cannot delegate"
        effect = "the rule is left out"
        problems.append(Problem(delegate.key, where, reason, effect))
    return delegate, rules, problems


def _merge(root: Json, rule: Json) -> Json | None:
    """A delegate's rule below a root's; None where no pair of matches agrees."""
    outer = sequence(root.get("match"), "match")
    inner = sequence(rule.get("match"), "match")
    matches: list[Json] = []
    if outer and inner:
        for one in outer:
            for other in inner:
                try:
                    matches.append(_merge_match(mapping(one, "match"), mapping(other, "match")))
                except ConflictError:
                    continue
        if not matches:
            return None
    else:
        matches = [*outer, *inner]
    merged = dict(rule)
    for name in INHERITED:
        if merged.get(name) is None and root.get(name) is not None:
            merged[name] = root[name]
    names = [str(one["name"]) for one in (root, rule) if one.get("name")]
    if names:
        merged["name"] = "-".join(names)
    if matches:
        merged["match"] = matches
    return merged


def _merge_match(outer: Json, inner: Json) -> Json:
    """Raises ConflictError."""
    if bool(outer.get("ignoreUriCase")) != bool(inner.get("ignoreUriCase")):
        raise ConflictError
    merged: dict[str, Any] = {**outer, **inner}
    for name in ("uri", *TEXTS):
        merged[name] = _merge_text(outer.get(name), inner.get(name))
    for name in ("headers", "withoutHeaders", "queryParams"):
        ours, theirs = mapping(outer.get(name), name), mapping(inner.get(name), name)
        for key in ours.keys() & theirs.keys():
            _merge_text(ours[key], theirs[key])  # a conflict ends it
        merged[name] = {**ours, **theirs}
    labels = {**mapping(outer.get("sourceLabels"), ""), **mapping(inner.get("sourceLabels"), "")}
    merged["sourceLabels"] = labels
    for name in ("port", "sourceNamespace"):
        both = {one[name] for one in (outer, inner) if one.get(name)}
        if len(both) > 1:
            raise ConflictError
        merged[name] = both.pop() if both else None
    gateways = strings(outer.get("gateways"), ""), strings(inner.get("gateways"), "")
    if gateways[0] and gateways[1] and not set(gateways[1]) <= set(gateways[0]):
        raise ConflictError
    names = [str(one["name"]) for one in (outer, inner) if one.get("name")]
    return {**merged, "name": "-".join(names)}


def _merge_text(outer: Any, inner: Any) -> Any:
    """The stricter of two StringMatches. Raises ConflictError where it cannot be told."""
    if not outer or not inner:
        return inner or outer
    ours, theirs = mapping(outer, "match"), mapping(inner, "match")
    if "regex" in ours:
        raise ConflictError
    if "exact" in ours:
        if theirs.get("exact") != ours["exact"]:
            raise ConflictError
        return inner
    begin = str(ours.get("prefix", ""))
    said = theirs.get("exact", theirs.get("prefix"))
    if said is None or not str(said).startswith(begin):
        raise ConflictError
    return inner
