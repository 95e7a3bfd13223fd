"""What several workers say, as if one tunnel had said it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

Json = dict[str, Any]

_LISTS: Final[dict[str, tuple[str, ...]]] = {
    "workloads": ("uid",),
    "services": ("namespace", "hostname"),
    "policies": ("namespace", "name"),
    "certificates": ("identity",),
}
"""Lists of a configuration dump, and what tells two entries of each apart."""


def config_dumps(dumps: Sequence[Json]) -> Json:
    """One ``/config_dump`` of several; what workers have in common is the first one's."""
    merged: Json = {}
    for dump in dumps:
        for part, content in dump.items():
            if part in _LISTS:
                merged.setdefault(part, []).extend(content)
            elif isinstance(content, dict) and part == "workloadState":
                merged.setdefault(part, {}).update(content)
            else:
                merged.setdefault(part, content)
    for part, names in _LISTS.items():
        if part in merged:
            merged[part] = _distinct(merged[part], names)
    return merged


def _distinct(entries: Iterable[Json], names: tuple[str, ...]) -> list[Json]:
    found: dict[tuple[str, ...], Json] = {}
    for entry in entries:
        found.setdefault(tuple(str(entry.get(name, "")) for name in names), entry)
    return [found[key] for key in sorted(found)]
