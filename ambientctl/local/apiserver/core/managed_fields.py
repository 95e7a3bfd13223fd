"""Who set which field: server-side apply and its ``managedFields``.

A field is a path of elements as ``fieldsV1`` spells them: ``f:name`` a member, ``k:{...}`` an item
of a list with keys, ``v:...`` an item of a set. Only leaves are tracked; an atomic list is a leaf.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.merge_keys import ATOMIC, SET, Path, apply_keys, item_key
from ambientctl.local.apiserver.core.status import ApiError, Cause, Object, bad_request

Field = tuple[str, ...]
Fields = frozenset[Field]

_UNTRACKED: Final = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "generateName",
    }
)
"""Members of metadata that belong to the server."""


class Write:
    """Who writes, how and when; ``at`` is an RFC 3339 time."""

    __slots__ = ("at", "force", "manager")

    def __init__(self, manager: str, at: str, *, force: bool = False) -> None:
        self.manager = manager
        self.at = at
        self.force = force


def leaves(kind: Kind, obj: Object) -> dict[Field, Any]:
    """Every tracked leaf of an object with its value."""
    found: dict[Field, Any] = {}
    for name, value in obj.items():
        if name not in {"apiVersion", "kind", "metadata"}:
            _walk(kind, value, (f"f:{name}",), (name,), found)
    for name, value in obj["metadata"].items():
        if name not in _UNTRACKED:
            _walk(kind, value, ("f:metadata", f"f:{name}"), ("metadata", name), found)
    return found


def _walk(kind: Kind, value: Any, field: Field, path: Path, found: dict[Field, Any]) -> None:
    """Collect the leaves below one value; ``field`` and ``path`` are the two ways to spell it."""
    match value:
        case None:
            return
        case dict() if value:
            for name, inner in value.items():
                _walk(kind, inner, (*field, f"f:{name}"), (*path, name), found)
        case list() if value and (keys := apply_keys(kind, path)) != ATOMIC:
            for item in value:
                element = _element(item, keys)
                if keys == SET:
                    found[(*field, element)] = item
                elif isinstance(item, dict):
                    _walk(kind, item, (*field, element), path, found)
        case _:
            found[field] = value


def _element(item: Any, keys: tuple[str, ...]) -> str:
    """The path element of one item in a merging list."""
    return ("v:" if keys == SET else "k:") + item_key(item, keys)


def to_fields_v1(fields: Iterable[Field]) -> Object:
    """The nested form that goes over the wire."""
    root: Object = {}
    for field in sorted(fields):
        node = root
        for element in field:
            if element.startswith("k:") and element not in node:
                node[element] = {".": {}}
            node = node.setdefault(element, {})
    return root


def from_fields_v1(nested: Object) -> Fields:
    """The leaves of the nested form."""
    found: list[Field] = []

    def descend(node: Object, field: Field) -> None:
        inner = {name: value for name, value in node.items() if name != "."}
        if not inner and field:
            found.append(field)
        for name, value in inner.items():
            descend(value, (*field, name))

    descend(nested, ())
    return frozenset(found)


def record_update(kind: Kind, old: Object | None, new: Object, write: Write) -> list[Object]:
    """The managedFields after a create, update or patch: what changed belongs to the writer now."""
    before = leaves(kind, old) if old else {}
    after = leaves(kind, new)
    changed = {field for field, value in after.items() if before.get(field) != value}
    gone = before.keys() - after.keys()
    entries = (old or {"metadata": {}})["metadata"].get("managedFields") or []
    if not changed and not gone:
        return list(entries)
    kept = []
    mine: frozenset[Field] = frozenset(changed)
    for entry in entries:
        fields = from_fields_v1(entry.get("fieldsV1") or {})
        if entry["operation"] == "Update" and entry["manager"] == write.manager:
            mine |= fields - gone
        elif left := fields - gone - changed:
            kept.append(entry if left == fields else {**entry, "fieldsV1": to_fields_v1(left)})
    return [*kept, _entry(kind, "Update", mine, write)] if mine else kept


def _entry(kind: Kind, operation: str, fields: Iterable[Field], write: Write) -> Object:
    """One entry of managedFields."""
    return {
        "manager": write.manager,
        "operation": operation,
        "apiVersion": kind.api_version,
        "time": write.at,
        "fieldsType": "FieldsV1",
        "fieldsV1": to_fields_v1(fields),
    }


def apply(kind: Kind, live: Object | None, config: Object, write: Write) -> Object:
    """Server-side apply: the object that results, with new managedFields.

    Raises a 409 that names every field somebody else holds with another value, unless forced, and
    a 400 when the configuration itself carries managedFields.
    """
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    wanted = leaves(kind, config)
    if live is None:
        entry = _entry(kind, "Apply", wanted, write)
        return {**config, "metadata": {**config["metadata"], "managedFields": [entry]}}
    present = leaves(kind, live)
    entries = live["metadata"].get("managedFields") or []
    before: Fields = frozenset()
    kept: list[Object] = []
    held: set[Field] = set()
    conflicts: list[Cause] = []
    for entry in entries:
        fields = from_fields_v1(entry.get("fieldsV1") or {})
        if entry["operation"] == "Apply" and entry["manager"] == write.manager:
            before = fields
            continue
        taken = {f for f in fields & wanted.keys() if present.get(f) != wanted[f]}
        conflicts += [_conflict(entry, field) for field in sorted(taken)]
        left = fields - taken
        held |= left
        if left:
            kept.append(entry if left == fields else {**entry, "fieldsV1": to_fields_v1(left)})
    if conflicts and not write.force:
        raise _conflicts(conflicts)
    merged = _merge(kind, live, config, ())
    for field in sorted(before - wanted.keys() - held):
        # An empty map that was applied once may have members by now.
        if not any(other[: len(field)] == field for other in wanted.keys() | held):
            merged = _without(kind, merged, field, ())
    entry = _entry(kind, "Apply", wanted, write)
    if wanted.keys() == before:  # an apply that changes nothing must not look like a change
        entry["time"] = next(
            (e["time"] for e in entries if e["manager"] == write.manager and "time" in e), write.at
        )
    managed = [entry, *kept] if wanted else kept
    return {**merged, "metadata": {**merged["metadata"], "managedFields": managed}}


def _conflict(entry: Object, field: Field) -> Cause:
    """One field that somebody else holds with another value."""
    path = "".join(
        f".{element[2:]}" if element.startswith("f:") else f"[{element[2:]}]" for element in field
    )
    using = f" using {entry['apiVersion']}" if entry["operation"] == "Update" else ""
    return Cause("FieldManagerConflict", f'conflict with "{entry["manager"]}"{using}', path)


def _conflicts(causes: list[Cause]) -> ApiError:
    """All conflicts as one 409; the sentence is the one that kubectl users know."""
    plural = "s" if len(causes) > 1 else ""
    lines = "\n".join(f"- {cause.field}" for cause in causes)
    who = sorted({cause.message for cause in causes})
    text = f"{who[0]}: {causes[0].field}" if len(causes) == 1 else f"{', '.join(who)}:\n{lines}"
    return ApiError(
        409,
        "Conflict",
        f"Apply failed with {len(causes)} conflict{plural}: {text}",
        {"causes": [cause._asdict() for cause in causes]},
    )


def _merge(kind: Kind, live: Any, config: Any, path: Path) -> Any:
    """The live value with the configuration laid over it, list by list."""
    match live, config:
        case dict(), dict():
            merged = dict(live)
            for name, value in config.items():
                if value is not None:
                    merged[name] = (
                        _merge(kind, merged[name], value, (*path, name))
                        if name in merged
                        else value
                    )
            return merged
        case list(), list() if (keys := apply_keys(kind, path)) != ATOMIC:
            merged_items = {item_key(item, keys): item for item in live}
            for item in config:
                key = item_key(item, keys)
                merged_items[key] = (
                    _merge(kind, merged_items[key], item, path) if key in merged_items else item
                )
            return list(merged_items.values())
        case _:
            return config


def _without(kind: Kind, value: Any, field: Field, path: Path) -> Any:
    """The value without one leaf; containers that become empty go too."""
    element, rest = field[0], field[1:]
    if isinstance(value, dict) and element.startswith("f:"):
        name = element[2:]
        if name not in value:
            return value
        inner = _without(kind, value[name], rest, (*path, name)) if rest else None
        others = {key: v for key, v in value.items() if key != name}
        return others if inner is None or inner in ({}, []) else {**value, name: inner}
    if isinstance(value, list) and not element.startswith("f:"):
        keys = apply_keys(kind, path)
        items = []
        for item in value:
            if _element(item, keys) != element:
                items.append(item)
            elif rest and (inner := _without(kind, item, rest, path)) and inner.keys() - {*keys}:
                items.append(inner)
        return items
    return value
