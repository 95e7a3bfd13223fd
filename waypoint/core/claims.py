"""What a verified token says: paths into its payload, and the strings at their ends."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from waypoint.core.objects import UnusableError

Claims = Mapping[str, Any]
Path = tuple[str, ...]
ROUTING: Final = "@request.auth.claims"
"""Begins names of pseudo-headers that routes match on (Istio)."""
_BRACKETS: Final = re.compile(r"\[([^\[\]]+)\]")
SPLIT_CLAIMS: Final = ("scope", "permission")
"""Claims whose text is a list with blanks between its items, whatever the policy says (Istio)."""


def bracket_path(text: str, field: str) -> Path:
    """``[a][b]`` as a path. Raises UnusableError."""
    if not text or _BRACKETS.sub("", text):
        raise UnusableError(field, f"{text!r} is not of the form [claim] or [claim][nested]")
    return tuple(_BRACKETS.findall(text))


def routing_path(name: str, field: str) -> Path | None:
    """The claim of a route's pseudo-header, in either form; None where it is a real header.

    Raises UnusableError.
    """
    if not name.lower().startswith(ROUTING):
        return None
    rest = name[len(ROUTING) :]
    if rest.startswith("["):
        return bracket_path(rest, field)
    parts = tuple(rest.removeprefix(".").split("."))
    if not rest.startswith(".") or not all(parts):
        raise UnusableError(field, f"{name!r} names no claim")
    return parts


def at(claims: Claims | None, path: Path) -> Any:
    """The value at the end of a path; None where there is none."""
    found: Any = claims
    for name in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def texts(claims: Claims | None, path: Path) -> tuple[str, ...]:
    """The string at the end of a path, or the strings of the list there; nothing else counts."""
    found = at(claims, path)
    if isinstance(found, str):
        return (found,)
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def matcher(path: Path, test: Callable[[str], bool]) -> Callable[[Claims | None], bool]:
    """Does one of the strings at a path pass a test?"""
    return lambda claims: any(test(value) for value in texts(claims, path))


def normalised(payload: Claims, more: Iterable[str] = ()) -> Claims:
    """A payload as policies see it: texts that are lists with blanks become lists."""
    changed = {
        name: value.split(" ")
        for name in (*SPLIT_CLAIMS, *more)
        if isinstance(value := payload.get(name), str)
    }
    return {**payload, **changed} if changed else payload


def header_text(value: Any) -> str:
    """A claim as the value of a header; empty where there is nothing to say (Envoy's forms)."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value.encode(errors="replace").decode("latin-1")  # as the wire has its bytes
        case int() | float():
            whole = 0 <= value < 1 << 64 and float(value).is_integer()
            return str(int(value)) if whole else f"{value:f}"
        case _:
            return base64.b64encode(msgspec.json.encode(value)).decode()
