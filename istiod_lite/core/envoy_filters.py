"""Which patches of an EnvoyFilter waypoints follow; the others have no effect, and that is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

FILTERS: Final = frozenset(
    f"envoy.filters.http.{name}" for name in ("local_ratelimit", "ratelimit", "buffer")
)
MANAGER: Final = "envoy.filters.network.http_connection_manager"
TIMES: Final = (
    "stream_idle_timeout", "streamIdleTimeout", "request_timeout", "requestTimeout",
    "request_headers_timeout", "requestHeadersTimeout", "idle_timeout", "idleTimeout",
    "max_stream_duration", "maxStreamDuration",
)  # fmt: skip
PLACES: Final = ("HTTP_ROUTE", "VIRTUAL_HOST")
UNDERSTOOD: Final = (
    "limits of rates and bodies (local_ratelimit, ratelimit, buffer) and of times "
    "(http_connection_manager)"
)


def is_followed(patch: Any) -> bool:
    """Does a patch say something that a waypoint does?"""
    if not isinstance(patch, Mapping):
        return False
    change = patch.get("patch")
    value = change.get("value") if isinstance(change, Mapping) else None
    if not isinstance(value, Mapping):
        return False
    if patch.get("applyTo") == "HTTP_FILTER":
        return value.get("name") in FILTERS
    if patch.get("applyTo") == "NETWORK_FILTER":
        return value.get("name") == MANAGER and _limits_times(value)
    if patch.get("applyTo") not in PLACES:
        return False
    route = value.get("route")
    said = {*value, *(route if isinstance(route, Mapping) else ())}
    per_filter = value.get("typed_per_filter_config") or value.get("typedPerFilterConfig")
    own = isinstance(per_filter, Mapping) and not FILTERS.isdisjoint(per_filter)
    return own or not said.isdisjoint(("rate_limits", "rateLimits"))


def _limits_times(value: Mapping[str, Any]) -> bool:
    """Does a connection manager's configuration say how long requests may take?"""
    config = value.get("typed_config") or value.get("typedConfig")
    wrapped = config.get("value") if isinstance(config, Mapping) else None
    config = wrapped if isinstance(wrapped, Mapping) else config
    if not isinstance(config, Mapping):
        return False
    common = config.get("common_http_protocol_options") or config.get("commonHttpProtocolOptions")
    said = {*config, *(common if isinstance(common, Mapping) else ())}
    return not said.isdisjoint(TIMES)


def without_effect(spec: Any) -> Iterator[str]:
    """The patches that no waypoint follows, by their fields."""
    patches = spec.get("configPatches") if isinstance(spec, Mapping) else None
    for index, patch in enumerate(patches if isinstance(patches, list) else ()):
        if not is_followed(patch):
            kind = patch.get("applyTo") if isinstance(patch, Mapping) else None
            yield f"configPatches[{index}] ({kind or 'no applyTo'})"
