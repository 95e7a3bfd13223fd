"""Settings of a program: one frozen struct, read once from the environment.

A field ``xds_address`` is the variable ``XDS_ADDRESS``; a field renamed with ``msgspec.field`` uses
that name; where it ends in ``*`` it is a dict of all variables that begin so, by the rest of their
names. Seconds (fields ending in ``_s``) may also be written as ``1m30s`` or ``500ms``; tuples and
sets are comma-separated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar, get_origin

import msgspec

from ambient.api.errors import SettingsError

S = TypeVar("S", bound=msgspec.Struct)

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|s|m|h)")
_UNIT_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_EXPECTED: Final = re.compile(r"^Expected `?(?P<what>[^`,]+)`?(?P<rest>.*)$")


def load_settings(kind: type[S], env: Mapping[str, str]) -> S:
    """Read ``kind`` from ``env``.

    An empty variable counts as unset, except for text. Raises SettingsError that names the
    variable, its value and what was expected.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name.endswith("*"):
            prefix = field.encode_name[:-1]
            found = {k.removeprefix(prefix): v for k, v in env.items() if k.startswith(prefix)}
            values[field.name] = {name: text for name, text in found.items() if name}
            continue
        renamed = field.encode_name != field.name
        variable = field.encode_name if renamed else field.name.upper()
        text = env.get(variable)
        if text is None or (text == "" and field.type is not str):
            if field.required:
                raise SettingsError(
                    f"the environment variable {variable} is not set",
                    hint=f"set {variable} to {_form(field.type)}",
                )
            continue
        try:
            values[field.name] = msgspec.convert(
                _prepare(field.name, field.type, text), field.type, strict=False
            )
        except msgspec.ValidationError as err:
            raise SettingsError(
                f"{variable}={text!r} cannot be used: {_reason(err)}",
                hint=f"set {variable} to {_form(field.type)}",
            ) from None
    try:
        return kind(**values)
    except (ValueError, TypeError) as err:  # from __post_init__: relations between settings
        raise SettingsError(f"the settings do not fit together: {err}") from None


def parse_seconds(text: str) -> float:
    """Read ``1.5``, ``500ms``, ``1m30s``. Raises ValueError for anything else."""
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    return float(text)


def _prepare(name: str, kind: Any, text: str) -> Any:
    if get_origin(kind) in (tuple, list, set, frozenset):
        return [part.strip() for part in text.split(",") if part.strip()]
    if name.endswith("_s"):
        try:
            return parse_seconds(text)
        except ValueError:
            return text  # msgspec names the type that it wanted
    return text


def _reason(err: msgspec.ValidationError) -> str:
    """msgspec's message in words: what was expected."""
    text = str(err).split(" - at ")[0]
    found = _EXPECTED.match(text)
    if found is None:
        return text[:1].lower() + text[1:]
    rest = "" if found["rest"].startswith(", got") else found["rest"].replace("`", "")
    return f"expected {found['what']}{rest}"


def _form(kind: Any) -> str:
    """The expected form of a value, for a hint."""
    if get_origin(kind) in (tuple, list, set, frozenset):
        return "a comma-separated list"
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.UnionType):
        info = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
    match info:
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType():
            return "a whole number" + _bounds(info)
        case msgspec.inspect.FloatType():
            return "a number" + _bounds(info)
        case msgspec.inspect.LiteralType():
            return "one of " + ", ".join(map(str, info.values))
        case msgspec.inspect.EnumType():
            return "one of " + ", ".join(str(member.value) for member in info.cls)
        case _:
            return "a text"


def _bounds(info: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    words = [
        f"{word} {value}"
        for word, value in (
            ("above", info.gt),
            ("from", info.ge),
            ("below", info.lt),
            ("up to", info.le),
        )
        if value is not None
    ]
    return (" " + " ".join(words)) if words else ""
