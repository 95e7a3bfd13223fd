"""Label and field selectors: read from a query or an object, asked about an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ambientctl.local.apiserver.core.names import label_value_error, qualified_name_error
from ambientctl.local.apiserver.core.status import Object, bad_request


class Requirement(NamedTuple):
    """One condition on one label. ``operator``: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Does an object with these labels satisfy the condition?"""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return _compares(value, self.operator, self.values)
            case _:
                return False


def _compares(value: str | None, operator: str, bounds: frozenset[str]) -> bool:
    """Gt and Lt compare whole numbers; anything else satisfies neither."""
    try:
        (bound,) = bounds
        number, limit = int(value or ""), int(bound)
    except ValueError:  # no number, or not exactly one bound
        return False
    return number > limit if operator == "Gt" else number < limit


LabelSelector = tuple[Requirement, ...]
"""All requirements must hold; the empty selector takes everything."""

_SET_RE: Final = re.compile(r"(\S+)\s+(in|notin)\s*\(([^()]*)\)")
_COMPARE_RE: Final = re.compile(r"([^=!<>\s]+)\s*(==|=|!=|>|<)\s*([^=!<>\s]*)")
_SPLIT_RE: Final = re.compile(r",(?![^(]*\))")


def parse_labels(text: str) -> LabelSelector:
    """Read a ``labelSelector`` query; raises a 400 that quotes what cannot be read."""
    return tuple(_requirement(part.strip()) for part in _SPLIT_RE.split(text) if part.strip())


def _requirement(text: str) -> Requirement:
    """Read one requirement; the set form first, as its operator contains no ``=``."""
    if match := _SET_RE.fullmatch(text):
        values = frozenset(value.strip() for value in match[3].split(","))
        found = Requirement(match[1], "In" if match[2] == "in" else "NotIn", values)
    elif match := _COMPARE_RE.fullmatch(text):
        operator = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}[match[2]]
        found = Requirement(match[1], operator, frozenset({match[3]}))
    elif text.startswith("!"):
        found = Requirement(text[1:].strip(), "DoesNotExist")
    else:
        found = Requirement(text, "Exists")
    why = qualified_name_error(found.key)
    why = why or next(filter(None, map(label_value_error, sorted(found.values))), "")
    if why:
        raise bad_request(f'unable to parse requirement "{text}": {why}')
    return found


def matches_labels(selector: LabelSelector, obj: Object) -> bool:
    """Does the object carry labels that satisfy the whole selector?"""
    if not selector:
        return True
    labels = obj["metadata"].get("labels") or {}
    return all(requirement.matches(labels) for requirement in selector)


def from_object(selector: Object | None) -> LabelSelector | None:
    """Read a ``metav1.LabelSelector``; None selects nothing, an empty one everything."""
    if selector is None:
        return None
    exact = [
        Requirement(key, "In", frozenset({value}))
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    more = [from_expression(item) for item in selector.get("matchExpressions") or ()]
    return (*exact, *more)


def from_expression(item: Object) -> Requirement:
    """Read one entry of ``matchExpressions`` or of a node selector term."""
    values = frozenset(item.get("values") or ())
    return Requirement(item.get("key", ""), item.get("operator", ""), values)


class FieldTerm(NamedTuple):
    """One condition on one field: equal or not equal."""

    path: str
    equal: bool
    value: str


FieldSelector = tuple[FieldTerm, ...]

_ANY: Final = frozenset({"metadata.name", "metadata.namespace"})
_EVENT: Final = frozenset(
    f"involvedObject.{name}"
    for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)
_FIELDS: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("", "pods"): frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    ),
    ("", "events"): _EVENT | {"reason", "reportingComponent", "source", "type"},
    ("", "namespaces"): frozenset({"status.phase"}),
    ("", "nodes"): frozenset({"spec.unschedulable"}),
    ("", "secrets"): frozenset({"type"}),
    ("", "services"): frozenset({"spec.clusterIP", "spec.type"}),
    ("apps", "replicasets"): frozenset({"status.replicas"}),
}


def parse_fields(text: str, key: tuple[str, str]) -> FieldSelector:
    """Read a ``fieldSelector`` query for one resource; raises a 400 for a field it lacks."""
    terms = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"([\w.\[\]'\-/]+?)\s*(==|=|!=)\s*(.*)", part)
        if match is None:
            raise bad_request(
                f"invalid field selector: invalid selector: '{part}'; can't understand '{part}'"
            )
        if match[1] not in _ANY and match[1] not in _FIELDS.get(key, frozenset()):
            raise bad_request(f"field label not supported: {match[1]}")
        terms.append(FieldTerm(match[1], match[2] != "!=", match[3]))
    return tuple(terms)


def matches_fields(selector: FieldSelector, obj: Object) -> bool:
    """Does the object satisfy every term? An absent field reads as the empty string."""
    return all((field_text(obj, term.path) == term.value) is term.equal for term in selector)


def field_text(obj: Object, path: str) -> str:
    """The text of a scalar field as field selectors compare it."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    match value:
        case None | dict() | list():
            # An event's "source" is its component.
            return str(value.get("component", "")) if isinstance(value, dict) else ""
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


Predicate = Callable[[Object], bool]


def predicate(labels: LabelSelector, fields: FieldSelector) -> Predicate:
    """Both selectors as one question about an object."""
    return lambda obj: matches_labels(labels, obj) and matches_fields(fields, obj)
