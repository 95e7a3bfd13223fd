"""What is asked of the head of every request, read from its fields in one pass.

Heads are recalled as a whole when they come again, and their facts with them.
"""

from __future__ import annotations

from typing import Final

from waypoint.core.grpc import is_grpc_type
from waypoint.core.message import HeadFacts

_STRIPPED: Final = frozenset(
    ("x-forwarded-client-cert", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id")
)
"""A client must not say these for itself, and an application must not see them."""
_JOINED: Final = frozenset(("user-agent", "x-forwarded-for"))
_FIRST: Final = frozenset(("x-request-id", "content-type", "x-forwarded-proto"))


def facts_of(fields: list[tuple[str, str]]) -> HeadFacts:
    """The facts of a head with these fields, names in lower case."""
    passed: list[tuple[str, str]] = []
    said: dict[str, str] = {}
    for field in fields:
        name, value = field
        if name in _STRIPPED:
            continue
        passed.append(field)
        if name in _FIRST:
            said.setdefault(name, value)
        elif name in _JOINED:
            said[name] = f"{said[name]},{value}" if name in said else value
    return HeadFacts(
        passed=tuple(passed),
        user_agent=said.get("user-agent", ""),
        forwarded_for=said.get("x-forwarded-for"),
        request_id=said.get("x-request-id"),
        proto_known="x-forwarded-proto" in said,
        grpc=is_grpc_type(said.get("content-type")),
    )
