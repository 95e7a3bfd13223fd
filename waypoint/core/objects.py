"""Reading Kubernetes objects as JSON: typed access, and problems that name object and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """Something in a configuration object that is not enforced as written.

    ``effect`` says what happens instead.
    """

    object: str
    field: str
    reason: str
    effect: str


class UnusableError(ValueError):
    """A field has a value that cannot be used."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


Json = Mapping[str, Any]


def mapping(value: Any, field: str) -> Json:
    """A JSON object; a missing one is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UnusableError(field, f"expected an object, found {type(value).__name__}")
    return value


def sequence(value: Any, field: str) -> Sequence[Any]:
    """A JSON array; a missing one is empty."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UnusableError(field, f"expected a list, found {type(value).__name__}")
    return value


def strings(value: Any, field: str) -> tuple[str, ...]:
    """A JSON array of strings."""
    found = sequence(value, field)
    if not all(isinstance(item, str) for item in found):
        raise UnusableError(field, "expected a list of strings")
    return tuple(found)


def string(value: Any, field: str, default: str = "") -> str:
    """A string; a missing one is ``default``."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise UnusableError(field, f"expected a string, found {type(value).__name__}")
    return value


def integer(value: Any, field: str, default: int = 0) -> int:
    """A whole number that is not negative; a missing one is ``default``."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UnusableError(field, f"expected a whole number, found {value!r}")
    return value


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "us": 1e-6, "ns": 1e-9}


def duration_s(value: Any, field: str) -> float | None:
    """A duration (``10s``, ``1m30s``, ``0.5s``) in seconds; None where unset or zero."""
    text = string(value, field)
    seconds, number, rest = 0.0, "", text
    while rest:
        char, rest = rest[0], rest[1:]
        if char.isdigit() or char == ".":
            number += char
            continue
        unit = char + rest[0] if rest[:1] and char + rest[0] in _UNITS else char
        rest = rest[len(unit) - 1 :]
        try:
            seconds += float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            raise UnusableError(field, f"{text!r} is not a duration such as 1.5s") from None
        number = ""
    if number:
        raise UnusableError(field, f"{text!r} is not a duration such as 1.5s")
    return seconds or None


def number(value: Any, field: str) -> float | None:
    """A number that is not negative; None where unset."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e300:
        raise UnusableError(field, f"expected a number, found {value!r}")
    return float(value)


def boolean(value: Any, field: str, *, default: bool = False) -> bool:
    """A truth value; a missing one is ``default``."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UnusableError(field, f"expected true or false, found {value!r}")
    return value


def fraction(value: Any, field: str) -> float | None:
    """Istio's ``percentage: {value: 12.5}`` as a part of 1; None where unset."""
    spec = mapping(value, field)
    if value is None:
        return None
    percent = number(spec.get("value"), f"{field}.value") or 0.0
    if percent > 100:
        raise UnusableError(f"{field}.value", f"{percent:g} is more than 100 percent")
    return percent / 100


def unwrapped(raw: Any, field: str) -> Json:
    """A message of Envoy's, also one that is wrapped as a TypedStruct."""
    config = mapping(raw, f"{field}.typed_config")
    wrapped = config.get("value")
    if "TypedStruct" in str(config.get("@type")) and isinstance(wrapped, Mapping):
        return wrapped
    return config


def field_of(value: Json, name: str) -> Any:
    """A field of protobuf's JSON: in either spelling."""
    first, *rest = name.split("_")
    camel = first + "".join(word.title() for word in rest)
    return value[name] if name in value else value.get(camel)
