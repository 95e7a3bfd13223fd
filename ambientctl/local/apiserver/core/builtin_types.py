"""The fields of the built-in kinds: which there are, of which type, with which protobuf number.

``builtin_types.json`` holds the facts, one message a line: ``{"field": [number, "type"]}`` by JSON
name. A type is a scalar, another message, or one of ``time``, ``quantity``, ``intOrString``,
``raw``, ``fields``; ``[]`` before it makes a list, ``map:`` a map from strings, and the fields of
an ``inline:`` message stand in the JSON of the outer one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object, bad_request

_PACKAGES: Final[dict[str, str]] = {
    "": "core",
    "admissionregistration.k8s.io": "admissionregistration",
    "apps": "apps",
    "discovery.k8s.io": "discovery",
    "coordination.k8s.io": "coordination",
    "events.k8s.io": "events",
    "policy": "policy",
    "autoscaling": "autoscaling",
    "rbac.authorization.k8s.io": "rbac",
    "networking.k8s.io": "networking",
    "authentication.k8s.io": "authentication",
    "authorization.k8s.io": "authorization",
    "meta.k8s.io": "meta",
}
_INTEGERS: Final = {"int32": 1 << 31, "int64": 1 << 63}
_GO_NAMES: Final = {
    "quantity": "resource.Quantity",
    "time": "v1.Time",
    "intOrString": "intstr.IntOrString",
    "bytes": "[]uint8",
    "double": "float64",
}


class Field(NamedTuple):
    """One field of a message."""

    number: int
    type: str
    shape: str
    """``""`` a single value, ``[]`` a list, ``map:`` a map, ``inline:`` fields of our own."""


Message = dict[str, Field]


@cache
def _messages() -> dict[str, Message]:
    """Read once, on first use: a server that only answers discovery never needs it."""
    text = files(__package__).joinpath("builtin_types.json").read_bytes()
    plain = msgspec.json.decode(text, type=dict[str, dict[str, tuple[int, str]]])
    return {
        name: {field: _field(number, text) for field, (number, text) in fields.items()}
        for name, fields in plain.items()
    }


def _field(number: int, text: str) -> Field:
    """Split the shape from the type."""
    shape = next((mark for mark in ("[]", "map:", "inline:") if text.startswith(mark)), "")
    return Field(number, text.removeprefix(shape), shape)


def message(name: str) -> Message | None:
    """The fields of a message as protobuf nests them; None for a scalar."""
    return _messages().get(name)


@cache
def json_fields(name: str) -> Message:
    """The fields of a message as JSON shows them: inlined ones among the others."""
    found: Message = {}
    for field, described in _messages()[name].items():
        if described.shape == "inline:":
            found |= json_fields(described.type)
        else:
            found[field] = described
    return found


def message_name(group: str, kind: str) -> str | None:
    """The message of a kind; None for kinds that are not described."""
    if (group, kind) == ("autoscaling", "Scale"):
        return "scale.Scale"
    name = f"{_PACKAGES.get(group, '')}.{kind}"
    return name if name in _messages() else None


class WrongType(Exception):  # noqa: N818 (a fact about a value; its text becomes the error)
    """A value that the field cannot hold."""


def conform(kind: Kind, obj: Object) -> list[str]:
    """Drop nulls and unknown fields, in place; returns the paths of the unknown ones.

    Raises a 400 in Kubernetes' words for a value of the wrong type.
    """
    name = message_name(kind.group, kind.kind)
    if name is None:
        return []
    body = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind"}}
    unknown = _conform_root(kind, name, body, "")
    for key in obj.keys() - body.keys() - {"apiVersion", "kind"}:
        del obj[key]
    return unknown


def conform_metadata(kind: Kind, obj: Object) -> list[str]:
    """The same for the metadata of an object whose other fields have a schema."""
    return _conform_root(kind, "meta.ObjectMeta", obj["metadata"], "metadata")


def conform_as(group: str, kind: str, body: Any) -> Object:
    """A private, well-typed form of a body that is not stored, such as a TokenRequest."""
    if not isinstance(body, dict | None):
        raise bad_request(f"a {kind} must be one object")
    copied = {k: v for k, v in (body or {}).items() if k not in {"apiVersion", "kind"}}
    name = message_name(group, kind)
    assert name is not None, kind
    _conform_root(Kind(group=group, version="v1", plural="", kind=kind), name, copied, "")
    return copied


def _conform_root(kind: Kind, name: str, body: Object, path: str) -> list[str]:
    """Walk a message and turn the first wrong type into the 400 that clients know."""
    unknown: list[str] = []
    try:
        _conform_message(name, body, path, unknown)
    except WrongType as wrong:
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"json: cannot unmarshal {wrong}"
        ) from None
    return unknown


def _conform_message(name: str, value: Object, path: str, unknown: list[str]) -> None:
    """Check the members of one message; nulls count as absent, as they do in Go."""
    fields = json_fields(name)
    for key in list(value):
        inner = value[key]
        where = f"{path}.{key}" if path else key
        if key not in fields:
            unknown.append(where)
            del value[key]
        elif inner is None:
            del value[key]
        else:
            _conform_field(name, fields[key], inner, where, unknown)


def _conform_field(owner: str, field: Field, value: Any, path: str, unknown: list[str]) -> None:
    """Check a value against the shape of its field."""
    if field.shape == "[]":
        if not isinstance(value, list):
            raise _wrong(owner, path, value, "[]" + _go_name(field.type))
        for i, item in enumerate(value):
            _conform_value(owner, field.type, item, f"{path}[{i}]", unknown)
    elif field.shape == "map:":
        if not isinstance(value, dict):
            raise _wrong(owner, path, value, "map[string]" + _go_name(field.type))
        for key, item in value.items():
            _conform_value(owner, field.type, item, f"{path}.{key}", unknown)
    else:
        _conform_value(owner, field.type, value, path, unknown)


def _conform_value(owner: str, kind: str, value: Any, path: str, unknown: list[str]) -> None:
    """Check one value, one list item or one map value."""
    if kind == "authentication.ExtraValue":
        _conform_field(owner, Field(1, "string", "[]"), value, path, unknown)
    elif kind in _messages():
        if not isinstance(value, dict):
            raise _wrong(owner, path, value, _go_name(kind))
        _conform_message(kind, value, path, unknown)
    elif not _fits(kind, value):
        raise _wrong(owner, path, value, _go_name(kind))


def _fits(kind: str, value: Any) -> bool:
    """Can a field of this scalar type hold the value? A bool is never a number."""
    if isinstance(value, bool):
        return kind in {"bool", "raw", "fields"}
    match kind:
        case "string" | "bytes" | "time":
            return isinstance(value, str)
        case "int32" | "int64":
            return isinstance(value, int) and -_INTEGERS[kind] <= value < _INTEGERS[kind]
        case "double":
            return isinstance(value, int | float)
        case "quantity":
            return isinstance(value, str | int | float)
        case "intOrString":
            return isinstance(value, str | int)
        case "bool":
            return False
        case _:
            return True


def _go_name(kind: str) -> str:
    """How Go names the type, which is how the error message names it."""
    package, _, name = kind.rpartition(".")
    return f"v1.{name}" if package else _GO_NAMES.get(kind, kind)


def _wrong(owner: str, path: str, value: Any, wanted: str) -> WrongType:
    """The tail of the sentence ``json: cannot unmarshal ...``."""
    found = {dict: "object", list: "array", str: "string", bool: "bool", type(None): "null"}
    noun = found.get(type(value), f"number {value}")
    where = f"{owner.rpartition('.')[2]}.{path}"
    return WrongType(f"{noun} into Go struct field {where} of type {wanted}")
