"""additionalPrinterColumns of custom resources."""

from __future__ import annotations

import datetime
import re
from typing import Any, Final

import msgspec

from ambientctl.local.apiserver.core.durations import age
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object

_AGE: Final[Object] = {
    "name": "Age",
    "type": "date",
    "jsonPath": ".metadata.creationTimestamp",
}
_NAME: Final[Object] = {
    "name": "Name",
    "type": "string",
    "format": "name",
    "description": "",
    "priority": 0,
}


def _columns(kind: Kind) -> tuple[Object, ...]:
    return kind.columns or (_AGE,)


def definitions(kind: Kind) -> list[Object]:
    """The header: Name and the columns of the definition."""
    extra = [
        {
            "name": column["name"],
            "type": column.get("type", "string"),
            "format": column.get("format", ""),
            "description": column.get("description", ""),
            "priority": column.get("priority", 0),
        }
        for column in _columns(kind)
    ]
    return [_NAME, *extra]


def cells(kind: Kind, obj: Object, now: datetime.datetime) -> list[Any]:
    """One row."""
    return [obj["metadata"]["name"], *(_cell(column, obj, now) for column in _columns(kind))]


def _cell(column: Object, obj: Object, now: datetime.datetime) -> Any:
    found = find(obj, column["jsonPath"])
    if not found:
        return None
    value = found[0]
    match column.get("type"):
        case "date":
            return age(value, now) if isinstance(value, str) else None
        case "integer" | "number":
            return value if isinstance(value, int | float) else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case _ if len(found) > 1 or isinstance(value, list | dict):
            # Several matches print as a list, as kubectl's own printer does.
            shown = found if len(found) > 1 else value
            return msgspec.json.encode(shown).decode()
        case _:
            return str(value)


_STEP: Final = re.compile(
    r"""\.?(?:\['(?P<quoted>[^']+)'\]
        |\[\?\(@\.(?P<key>[\w.]+)\s*==\s*["'](?P<want>[^"']*)["']\)\]
        |\[(?P<index>\*|-?\d+)\]
        |(?P<name>(?:\\.|[\w$/-])+))""",
    re.VERBOSE,
)


def find(obj: Any, path: str) -> list[Any]:
    """What a JSONPath of the kind that printer columns use selects; nothing for other paths."""
    found = [obj]
    position = 1 if path.startswith("$") else 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            return []
        position = step.end()
        found = [inner for value in found for inner in _step(value, step)]
    return found


def _step(value: Any, step: re.Match[str]) -> list[Any]:
    if (index := step["index"]) is not None:
        if not isinstance(value, list):
            return []
        if index == "*":
            return value
        return value[int(index) :][:1]
    if step["key"] is not None:
        items = value if isinstance(value, list) else []
        return [item for item in items if find(item, "." + step["key"]) == [step["want"]]]
    name = step["quoted"] or step["name"].replace("\\", "")
    return [value[name]] if isinstance(value, dict) and name in value else []
