"""OpenAPI structural schemas: check an object, drop what the schema does not know, fill defaults.

The built-in kinds and custom resources go through the same three functions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ambientctl.local.apiserver.core.status import (
    Cause,
    Object,
    bad_value,
    not_supported,
    required,
)

Schema = Mapping[str, Any]

_IMPLICIT: Final = frozenset({"apiVersion", "kind", "metadata"})
"""Every object has these; no schema needs to list them."""

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_JSON_NAMES: Final[dict[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


_SHAPES: Final[dict[str, tuple[type, ...]]] = {
    "type": (str,),
    "properties": (dict,),
    "additionalProperties": (dict, bool),
    "items": (dict,),
    "required": (list,),
    "enum": (list,),
    "allOf": (list,),
    "anyOf": (list,),
    "oneOf": (list,),
    "not": (dict,),
    "pattern": (str,),
    "x-kubernetes-list-map-keys": (list,),
    **dict.fromkeys(("minimum", "maximum"), (int, float)),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (int,),
    ),
}
"""What the keywords of a schema hold, as far as they are read here."""
_DEPTH_MAX: Final = 64
"""Schemas inside schemas; the deepest published ones have about twenty."""


def misshapen(schema: Any, field: str, depth: int = _DEPTH_MAX) -> Iterator[Cause]:
    """What keeps this from being a schema at all."""
    if not isinstance(schema, dict):
        yield _wrong_type(field, schema, "object")
        return
    if depth == 0:
        yield bad_value(field, "...", f"must not be nested deeper than {_DEPTH_MAX} levels")
        return
    for keyword, types in _SHAPES.items():
        if keyword in schema and not isinstance(schema[keyword], types):
            yield _wrong_type(f"{field}.{keyword}", schema[keyword], _JSON_NAMES[types[0]])
    for keyword in ("required", "x-kubernetes-list-map-keys"):
        names = schema.get(keyword)
        if isinstance(names, list) and not all(isinstance(name, str) for name in names):
            yield bad_value(f"{field}.{keyword}", names, "must be a list of strings")
    if str(schema.get("type", "object")) not in _TYPES:
        yield not_supported(f"{field}.type", schema["type"], sorted(_TYPES))
    for inner, where in _inner_schemas(schema, field):
        yield from misshapen(inner, where, depth - 1)


def _inner_schemas(schema: Schema, field: str) -> Iterator[tuple[Any, str]]:
    """Every schema directly inside this one, with its path."""
    if isinstance(properties := schema.get("properties"), dict):
        yield from ((inner, f"{field}.properties[{name}]") for name, inner in properties.items())
    for keyword in ("items", "not", "additionalProperties"):
        if isinstance(inner := schema.get(keyword), dict):
            yield inner, f"{field}.{keyword}"
    for keyword in ("allOf", "anyOf", "oneOf"):
        if isinstance(branches := schema.get(keyword), list):
            yield from ((inner, f"{field}.{keyword}[{i}]") for i, inner in enumerate(branches))


def is_type(value: Any, name: str) -> bool:
    """Has the value this JSON type? A whole float counts as an integer, a bool never does."""
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, (object,)))


def type_name(value: Any) -> str:
    """The JSON type of a value, as messages name it."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def check(schema: Schema, value: Any, field: str = "") -> Iterator[Cause]:
    """Everything that the schema forbids about the value."""
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not (is_type(value, "integer") or isinstance(value, str)):
            yield _wrong_type(field, value, "integer or string")
        return
    wanted = schema.get("type")
    if wanted and not is_type(value, wanted):
        yield _wrong_type(field, value, wanted)
        return
    if (choices := schema.get("enum")) is not None and value not in choices:
        yield not_supported(field, value, choices)
    match value:
        case dict():
            yield from _check_object(schema, value, field)
        case list():
            yield from _check_array(schema, value, field)
        case str():
            yield from _check_string(schema, value, field)
        case int() | float() if not isinstance(value, bool):
            yield from _check_number(schema, value, field)
        case _:
            pass
    yield from _check_combinations(schema, value, field)


def _wrong_type(field: str, value: Any, wanted: str) -> Cause:
    """The cause for a value of another type, worded as the real server words it."""
    shown = "null" if value is None else f'"{type_name(value)}"'
    message = (
        f'Invalid value: {shown}: {field} in body must be of type {wanted}: "{type_name(value)}"'
    )
    return Cause("FieldValueTypeInvalid", message, field)


def _check_object(schema: Schema, value: Object, field: str) -> Iterator[Cause]:
    """Members: required, known, additional, counted."""
    prefix = f"{field}." if field else ""
    for name in schema.get("required") or ():
        if name not in value:
            yield required(prefix + name)
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for name, inner in value.items():
        if (known := properties.get(name)) is not None:
            # A null in place of an optional member counts as absent, as it does in Go.
            if inner is not None or name in (schema.get("required") or ()):
                yield from check(known, inner, prefix + name)
        elif isinstance(extra, Mapping):
            yield from check(extra, inner, f"{field}.{name}")
    if (limit := schema.get("maxProperties")) is not None and len(value) > limit:
        yield Cause(
            "FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items", field
        )
    if len(value) < schema.get("minProperties", 0):
        yield bad_value(
            field, len(value), f"should have at least {schema['minProperties']} properties"
        )


def _check_array(schema: Schema, value: list[Any], field: str) -> Iterator[Cause]:
    """Items: each by the schema, counted, and with unique keys where the list is a map."""
    items = schema.get("items")
    if isinstance(items, Mapping):
        for i, item in enumerate(value):
            yield from check(items, item, f"{field}[{i}]")
    if (limit := schema.get("maxItems")) is not None and len(value) > limit:
        yield Cause(
            "FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items", field
        )
    if len(value) < schema.get("minItems", 0):
        yield bad_value(
            field, len(value), f"{field} in body should have at least {schema['minItems']} items"
        )
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    seen: list[Any] = []
    for i, item in enumerate(value if keys else ()):
        identity = {key: item.get(key) for key in keys} if isinstance(item, dict) else item
        if identity in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {identity}", f"{field}[{i}]")
        seen.append(identity)


def _check_string(schema: Schema, value: str, field: str) -> Iterator[Cause]:
    """Length and pattern."""
    if (limit := schema.get("maxLength")) is not None and len(value) > limit:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", field)
    if len(value) < schema.get("minLength", 0):
        why = f"{field} in body should be at least {schema['minLength']} chars long"
        yield bad_value(field, value, why)
    if (pattern := schema.get("pattern")) and not _matches(pattern, value):
        yield bad_value(field, value, f"{field} in body should match '{pattern}'")


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:  # a Go pattern that Python cannot read is not the manifest's fault
        return True


def _check_number(schema: Schema, value: float, field: str) -> Iterator[Cause]:
    """Bounds."""
    if (low := schema.get("minimum")) is not None and value < low:
        why = f"{field} in body should be greater than or equal to {low}"
        yield bad_value(field, value, why)
    if (high := schema.get("maximum")) is not None and value > high:
        why = f"{field} in body should be less than or equal to {high}"
        yield bad_value(field, value, why)


def _check_combinations(schema: Schema, value: Any, field: str) -> Iterator[Cause]:
    """allOf, anyOf, oneOf, not."""
    for branch in schema.get("allOf") or ():
        yield from check(branch, value, field)
    if (branches := schema.get("anyOf")) and all(any(check(b, value, field)) for b in branches):
        yield bad_value(
            field, type_name(value), f"{field} in body must validate at least one schema (anyOf)"
        )
    if branches := schema.get("oneOf"):
        fitting = sum(not any(check(branch, value, field)) for branch in branches)
        if fitting != 1:
            why = (
                f"{field} in body must validate one and only one schema (oneOf). "
                f"Found {fitting} valid alternatives"
            )
            yield bad_value(field, type_name(value), why)
    if (banned := schema.get("not")) and not any(check(banned, value, field)):
        yield bad_value(
            field, type_name(value), f"{field} in body must not validate the schema (not)"
        )


def prune(schema: Schema, value: Any, field: str = "", *, root: bool = True) -> list[str]:
    """Drop members that the schema does not know, in place; returns their paths."""
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, Mapping):
            return []
        return [
            path
            for i, item in enumerate(value)
            for path in prune(items, item, f"{field}[{i}]", root=False)
        ]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    properties = schema.get("properties")
    extra = schema.get("additionalProperties")
    implicit = _IMPLICIT if root or schema.get("x-kubernetes-embedded-resource") else frozenset()
    if properties is None and extra is None and schema.get("type") != "object":
        return []
    dropped = []
    for name in list(value):
        path = f"{field}.{name}" if field else name
        if (known := (properties or {}).get(name)) is not None:
            if not (root and name == "metadata"):
                dropped += prune(known, value[name], path, root=False)
        elif isinstance(extra, Mapping):
            dropped += prune(extra, value[name], path, root=False)
        elif extra is not True and name not in implicit:
            del value[name]
            dropped.append(path)
    return dropped


def fill(schema: Schema, value: Any) -> None:
    """Fill in the defaults of the schema, in place."""
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        for item in value:
            fill(items, item)
    if not isinstance(value, dict):
        return
    for name, inner in (schema.get("properties") or {}).items():
        if "default" in inner and value.get(name) is None and not inner.get("nullable"):
            value[name] = copy.deepcopy(inner["default"])
        if name in value:
            fill(inner, value[name])
    if isinstance(extra := schema.get("additionalProperties"), Mapping):
        for name, inner in value.items():
            if name not in (schema.get("properties") or {}):
                fill(extra, inner)
