"""``customTags`` of the Telemetry API: what a span says beside what it always says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from waypoint.core.log_format import request_field, text_format
from waypoint.core.objects import UnusableError, mapping, string
from waypoint.core.record import Record

Environment = Callable[[str], str | None]


class CustomTag(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tag's value comes from: exactly one of the sources is set."""

    name: str
    literal: str = ""
    environment: str = ""
    header: str = ""
    formatter: Callable[[Record], str] | None = None
    default: str = ""

    def value(self, record: Record, environment: Environment) -> str:
        """The value for a record; empty where there is none."""
        if self.formatter is not None:
            return self.formatter(record)
        if self.environment:
            return environment(self.environment) or self.default
        if self.header:
            return request_field(record, self.header) or self.default
        return self.literal


def read_tags(raw: Any, field: str) -> tuple[CustomTag, ...]:
    """All tags of a block. Raises UnusableError."""
    found: list[CustomTag] = []
    for name, value in mapping(raw, field).items():
        where = f"{field}[{name}]"
        tag = mapping(value, where)
        kind = next(iter(tag), "")
        source = mapping(tag.get(kind), f"{where}.{kind}")
        given = string(source.get("value") or source.get("name"), f"{where}.{kind}")
        default = string(source.get("defaultValue"), f"{where}.{kind}.defaultValue")
        match kind:
            case "literal":
                found.append(CustomTag(name=name, literal=given))
            case "environment":
                found.append(CustomTag(name=name, environment=given, default=default))
            case "header":
                found.append(CustomTag(name=name, header=given.lower(), default=default))
            case "formatter":
                found.append(CustomTag(name=name, formatter=text_format(given, where)))
            case _:
                raise UnusableError(where, "needs literal, environment, header or formatter")
    return tuple(found)
