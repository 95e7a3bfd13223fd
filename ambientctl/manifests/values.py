"""Values for manifests: nested mappings, merged as Helm merges them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from ambient.api.errors import MeshError

Json = Any


def lookup(values: Mapping[str, Any], path: str) -> Json:
    """The value at ``a.b.c``. Raises KeyError."""
    found: Json = values
    for key in path.split("."):
        found = found[key]
    return found


def put(values: dict[str, Any], path: str, value: Json) -> None:
    """Set the value at ``a.b.c``; mappings on the way are made."""
    *way, last = path.split(".")
    for key in way:
        values = values.setdefault(key, {})
    values[last] = value


def merge(
    defaults: Mapping[str, Any], chosen: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """``defaults`` with what is chosen in their place; a null removes a key of a free mapping.

    Raises MeshError for a name that there is not, and for a value of another kind.
    """
    merged = dict(defaults)
    for key, value in chosen.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in defaults:
            raise _unknown(path, str(key), defaults)
        default = defaults[key]
        if isinstance(default, dict) and isinstance(value, dict):
            merged[key] = merge(default, value, path) if _closed(path) else _free(default, value)
        elif not _fits(value, default) and path not in LOOSE:
            example = yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
            raise MeshError(
                f"{path}: {json.dumps(value)} cannot stand there", hint=f"the default is {example}"
            )
        else:
            merged[key] = value
    return merged


def joined(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """What two callers choose, the second over the first; nulls are kept, for ``merge``."""
    made = dict(first)
    for key, value in then.items():
        old = made.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            made[key] = joined(old, value)
        else:
            made[key] = value
    return made


FREE: Final = (
    "resources", "nodeSelector", "affinity", "env", "seLinuxOptions", "podLabels", "podAnnotations",
)  # fmt: skip
"""Mappings that are Kubernetes' or the user's own: any key may be added."""


LOOSE: Final = ("ztunnel.workers",)
"""A number or a text (50%); its rule says which (``schema.RULES``)."""


def _closed(path: str) -> bool:
    return not is_free(path)


def is_free(path: str) -> bool:
    """Whether the mapping may have any key."""
    return path.rpartition(".")[2] in FREE


def _free(default: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(default)
    for key, new in value.items():
        if new is None:
            merged.pop(key, None)
        elif isinstance(new, dict) and isinstance(merged.get(key), dict):
            merged[key] = _free(merged[key], new)
        else:
            merged[key] = new
    return merged


def _fits(value: Json, default: Json) -> bool:
    """Whether the value is of the default's kind; a text takes any scalar."""
    if isinstance(default, str):
        return isinstance(value, str | bool | int | float)
    return type(value) is type(default)


def _unknown(path: str, key: str, known: Iterable[str]) -> MeshError:
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean {path.removesuffix(key)}{near[0]}?" if near else ""
    return MeshError(
        f"there is no value {path}", hint=hint or f"there are {', '.join(sorted(known))}"
    )


def parse_set(text: str) -> dict[str, Any]:
    """``a.b=c`` as a mapping; c is read as YAML. Raises MeshError."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise MeshError(f"--set {text}: not NAME=VALUE", hint="for example --set istiod.replicas=3")
    try:
        loaded = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise MeshError(f"--set {text}: the value is not YAML: {error}") from None
    found: dict[str, Any] = {}
    put(found, path, loaded)
    return found
