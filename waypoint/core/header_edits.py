"""``headers`` of a VirtualService: what is set, added and removed, at a rule or a destination."""

from __future__ import annotations

from typing import Any

from waypoint.core.filters import HeaderEdits, HeaderFilter
from waypoint.core.header_value import Template, compile_value
from waypoint.core.objects import mapping, string, strings


def header_filter(raw: Any, field: str) -> HeaderFilter | None:
    """``headers.request`` and ``headers.response`` with set, add and remove."""
    spec = mapping(raw, field)
    if not spec:
        return None
    request, authority = _edits(spec.get("request"), f"{field}.request")
    response, _ = _edits(spec.get("response"), f"{field}.response")
    dynamic = request.dynamic or response.dynamic or isinstance(authority, Template)
    return HeaderFilter(request=request, response=response, authority=authority, dynamic=dynamic)


def _edits(raw: Any, field: str) -> tuple[HeaderEdits, str | Template | None]:
    spec = mapping(raw, field)
    authority: str | Template | None = None
    lists: dict[str, list[tuple[str, str | Template]]] = {"add": [], "set": []}
    for kind, pairs in lists.items():  # set comes last, so that its Host wins
        for key, value in sorted(mapping(spec.get(kind), f"{field}.{kind}").items()):
            where = f"{field}.{kind}[{key}]"
            text = compile_value(string(value, where), where)
            if key.lower() in (":authority", "host"):
                authority = text
            elif not key.startswith(":") and text:  # empty: there is nothing to set (Envoy)
                pairs.append((key.lower(), text))
    removed = strings(spec.get("remove"), f"{field}.remove")
    edits = HeaderEdits(
        put=tuple(lists["set"]),
        add=tuple(lists["add"]),
        remove=tuple(name.lower() for name in removed),
    )
    return edits, authority
