"""``headers`` of a VirtualService: what is set, added and removed, at a rule or a destination."""

from __future__ import annotations

from typing import Any

from waypoint.core.filters import HeaderEdits, HeaderFilter
from waypoint.core.objects import mapping, string, strings


def header_filter(raw: Any, field: str) -> HeaderFilter | None:
    """``headers.request`` and ``headers.response`` with set, add and remove."""
    spec = mapping(raw, field)
    if not spec:
        return None
    request, authority = _edits(spec.get("request"), f"{field}.request")
    response, _ = _edits(spec.get("response"), f"{field}.response")
    return HeaderFilter(request=request, response=response, authority=authority)


def _edits(raw: Any, field: str) -> tuple[HeaderEdits, str | None]:
    spec = mapping(raw, field)
    authority: str | None = None
    lists: dict[str, list[tuple[str, str]]] = {"add": [], "set": []}
    for kind, pairs in lists.items():  # set comes last, so that its Host wins
        for key, value in sorted(mapping(spec.get(kind), f"{field}.{kind}").items()):
            text = string(value, f"{field}.{kind}[{key}]").replace("%%", "%")
            if key.lower() in (":authority", "host"):
                authority = text
            elif not key.startswith(":"):
                pairs.append((key.lower(), text))
    removed = strings(spec.get("remove"), f"{field}.remove")
    edits = HeaderEdits(
        put=tuple(lists["set"]),
        add=tuple(lists["add"]),
        remove=tuple(name.lower() for name in removed),
    )
    return edits, authority
