"""How long a request may take on the client's side: Envoy's HTTP connection manager, as
EnvoyFilters set it."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from waypoint.core.message import Reply
from waypoint.core.objects import Json, UnusableError, duration_s, field_of, mapping

MANAGER: Final = "envoy.filters.network.http_connection_manager"
_COMMON: Final = "common_http_protocol_options"


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; infinite: none, which is Istio's default of all of them."""

    idle_s: float = math.inf
    """``stream_idle_timeout``: without a byte of body in either direction."""
    request_s: float = math.inf
    """``request_timeout``: until the end of the request."""
    whole_s: float = math.inf
    """``max_stream_duration``."""
    head_s: float = math.inf
    """``request_headers_timeout``: from the first byte of a head of HTTP/1.1 to its end."""
    rest_s: float = math.inf
    """``idle_timeout``: a connection of HTTP/1.1 between requests."""

    def over(self, below: StreamLimits) -> StreamLimits:
        """This, and what is below where this says nothing."""
        said = {k: v for k, v in msgspec.structs.asdict(self).items() if v < math.inf}
        return msgspec.structs.replace(below, **said)

    def __bool__(self) -> bool:
        return self != NO_LIMITS


NO_LIMITS: Final = StreamLimits()


def read_stream_limits(config: Json, field: str) -> tuple[StreamLimits, tuple[str, ...]]:
    """Of an ``HttpConnectionManager``, and the fields that waypoints do not follow. Raises
    UnusableError."""
    common = mapping(field_of(config, _COMMON), f"{field}.{_COMMON}")
    found = StreamLimits(
        idle_s=_seconds(config, "stream_idle_timeout", field),
        request_s=_seconds(config, "request_timeout", field),
        whole_s=_seconds(common, "max_stream_duration", f"{field}.{_COMMON}"),
        head_s=_seconds(config, "request_headers_timeout", field),
        rest_s=_seconds(common, "idle_timeout", f"{field}.{_COMMON}"),
    )
    left = [name for name in config if name not in _FOLLOWED]
    left += [f"{_COMMON}.{name}" for name in common if name not in _FOLLOWED_IN_COMMON]
    if not found and not left:
        raise UnusableError(field, "says nothing")
    return found, tuple(left)


def _seconds(value: Json, name: str, field: str) -> float:
    raw: Any = field_of(value, name)
    return duration_s(raw, f"{field}.{name}") or math.inf


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _both(*names: str) -> frozenset[str]:
    """In both spellings of protobuf's JSON."""
    return frozenset((*names, *map(_camel, names)))


_FOLLOWED: Final = _both(
    "stream_idle_timeout", "request_timeout", "request_headers_timeout", _COMMON, "stat_prefix",
    "@type",
)  # fmt: skip
_FOLLOWED_IN_COMMON: Final = _both("max_stream_duration", "idle_timeout")


def stream_timeout(*, whole: bool) -> Reply:
    """Nothing has moved; ``whole``: the request had come to its end."""
    return Reply(504 if whole else 408, "stream timeout", "SI", "stream_idle_timeout")


def duration_timeout(*, whole: bool) -> Reply:
    """It has taken too long altogether."""
    status = 504 if whole else 408
    return Reply(status, "downstream duration timeout", "-", "max_duration_timeout")


HEAD_TIMEOUT: Final = Reply(408, "request header timeout", "-", "request_header_timeout")
"""The head of a request has not come to its end."""
REQUEST_TIMEOUT: Final = Reply(408, "request timeout", "-", "request_overall_timeout")
"""The request has not come to its end."""
