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

    def over(self, below: StreamLimits) -> StreamLimits:
        """This, and what is below where this says nothing."""
        return StreamLimits(
            idle_s=self.idle_s if self.idle_s < math.inf else below.idle_s,
            request_s=self.request_s if self.request_s < math.inf else below.request_s,
            whole_s=self.whole_s if self.whole_s < math.inf else below.whole_s,
        )

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
    )
    followed = ("stream_idle_timeout", "request_timeout", _COMMON, "stat_prefix", "@type")
    known = {name for one in followed for name in (one, _camel(one))}
    left = [name for name in config if name not in known]
    durations = ("max_stream_duration", _camel("max_stream_duration"))
    left += [f"{_COMMON}.{name}" for name in common if name not in durations]
    if not found and not left:
        raise UnusableError(field, "says nothing")
    return found, tuple(left)


def _seconds(value: Json, name: str, field: str) -> float:
    raw: Any = field_of(value, name)
    return duration_s(raw, f"{field}.{name}") or math.inf


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def stream_timeout(*, whole: bool) -> Reply:
    """Nothing has moved; ``whole``: the request had come to its end."""
    return Reply(504 if whole else 408, "stream timeout", "SI", "stream_idle_timeout")


def duration_timeout(*, whole: bool) -> Reply:
    """It has taken too long altogether."""
    status = 504 if whole else 408
    return Reply(status, "downstream duration timeout", "-", "max_duration_timeout")


REQUEST_TIMEOUT: Final = Reply(408, "request timeout", "-", "request_overall_timeout")
"""The request has not come to its end."""
