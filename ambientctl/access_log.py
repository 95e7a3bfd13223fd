"""Lines of the access logs of tunnels and waypoints, ours and Istio's, plain and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

CONNECTION: Final = "connection complete"
REQUEST: Final = "request complete"
FAILED: Final = "connection failed"
EVENTS: Final = (CONNECTION, REQUEST, FAILED)
_FIELD: Final = re.compile(r'([A-Za-z_][\w.]*)=("(?:[^"\\]|\\.)*"|\S*)')
_HEAD: Final = ("time", "level", "scope", "message")


class Access(NamedTuple):
    """One connection or request that ended. ``fields`` have the names of the log."""

    event: str
    time: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """A field as text, empty where it is not there."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    @property
    def failed(self) -> bool:
        """Whether it did not end well: an error, or a status of 5xx or 403."""
        code = self.text("response_code")
        return bool(self.text("error")) or code.startswith("5") or code in ("401", "403")


def read_line(line: str) -> Access | None:
    """One line; None for what is no access log."""
    text = line.strip()
    if not text:
        return None
    if text.startswith("{"):
        return _read_json(text)
    parts = text.split("\t", 4)
    if len(parts) < 4 or parts[3] not in EVENTS:
        return None
    rest = parts[4] if len(parts) > 4 else ""
    return Access(parts[3], parts[0], dict(_fields(rest)))


def _read_json(text: str) -> Access | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("message") not in EVENTS:
        return None
    fields = {key: value for key, value in found.items() if key not in _HEAD}
    return Access(found["message"], str(found.get("time", "")), fields)


def _fields(text: str) -> Iterator[tuple[str, Any]]:
    for name, raw in _FIELD.findall(text):
        if raw.startswith('"'):
            try:
                yield name, json.loads(raw)
            except ValueError:
                yield name, raw.strip('"')
        else:
            yield name, int(raw) if raw.lstrip("-").isdecimal() else raw
