"""EnvoyFilter, as far as waypoints follow it: local and global rate limits, limits of bodies.

The same patches that users write for Envoy: the filters themselves (HTTP_FILTER), and what routes
(HTTP_ROUTE) and ports (VIRTUAL_HOST) say of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.attachment import TargetRef, holds_for, read_targets
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    boolean,
    field_of,
    integer,
    mapping,
    sequence,
    string,
    unwrapped,
)
from waypoint.core.place import Place
from waypoint.core.rate_limit import Beside, GlobalLimit, LocalLimit, RouteLimit, Rule
from waypoint.core.rate_limit_config import (
    read_global,
    read_local,
    read_rate_limits,
    read_route_limit,
)
from waypoint.core.stream_limits import MANAGER, NO_LIMITS, StreamLimits, read_stream_limits

LOCAL: Final = "envoy.filters.http.local_ratelimit"
GLOBAL: Final = "envoy.filters.http.ratelimit"
BUFFER: Final = "envoy.filters.http.buffer"
LEFT_OUT: Final = {
    "local_cluster_rate_limit": "each pod of a waypoint counts for itself",
    "local_rate_limit_per_downstream_connection": "all connections share a bucket",
    "request_type": "requests of clients inside and outside count alike",
}
"""Fields of filters that waypoints do not follow."""
_NOTHING: Final = RouteLimit()
MAX_BUFFER: Final = 64 << 20
"""Bodies are held whole up to their limit: what one request may cost (our own choice)."""
_PORT: Final = re.compile(r"(?:inbound\|http\||inbound-vip\|)?(\d+)(?:\|.*)?")


class Spot(msgspec.Struct, frozen=True):
    """What a patch matches: a port, and a route by its name; empty for all. ``on_route`` is set
    for HTTP_ROUTE."""

    port: int = 0
    route: str = ""
    on_route: bool = False

    @property
    def rank(self) -> int:
        """What is matched more closely counts alone."""
        return (3 if self.route else 2) if self.on_route else 1 if self.port else 0

    def covers(self, port: int, route: str) -> bool:
        """Does it match a request?"""
        return self.port in (0, port) and self.route in ("", route)


class SpotRules(msgspec.Struct, frozen=True, kw_only=True):
    """``rate_limits`` of a route or of a port; ``beside``: a port's hold with a route's, too."""

    spot: Spot
    rules: tuple[Rule, ...]
    beside: bool = False


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What of an EnvoyFilter limits requests; ``bodies``: the most bytes of one (None: any)."""

    namespace: str
    name: str
    targets: tuple[TargetRef, ...]
    local: tuple[tuple[Spot, LocalLimit], ...] = ()
    counted: tuple[GlobalLimit, ...] = ()
    of_routes: tuple[tuple[Spot, RouteLimit], ...] = ()
    rules: tuple[SpotRules, ...] = ()
    bodies: tuple[tuple[Spot, int | None], ...] = ()
    streams: tuple[tuple[Spot, StreamLimits], ...] = ()


class Limits(msgspec.Struct, frozen=True):
    """The limits of one destination."""

    found: tuple[RateLimits, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.found)

    def local(self, port: int, route: str) -> list[tuple[Spot, LocalLimit]]:
        """Those of the route, else of the port, else of the filters."""
        covering = [
            (spot, limit)
            for one in self.found
            for spot, limit in one.local
            if spot.covers(port, route)
        ]
        most = max((spot.rank for spot, _ in covering), default=0)
        return [(spot, limit) for spot, limit in covering if spot.rank == most]

    def body(self, port: int, route: str) -> int | None:
        """The most bytes of a request's body: what the route says, else the port, else all."""
        covering = [
            (place.rank, size)
            for one in self.found
            for place, size in one.bodies
            if place.covers(port, route)
        ]
        most = max((rank for rank, _ in covering), default=0)
        sizes = [size for rank, size in covering if rank == most]
        known = [size for size in sizes if size is not None]
        return min(known) if known and len(known) == len(sizes) else None

    def streams(self, port: int) -> StreamLimits:
        """How long requests may take: later ones, and those for the port, come first."""
        covering = [
            (spot.rank, limits)
            for one in self.found
            for spot, limits in one.streams
            if spot.covers(port, "")
        ]
        merged = NO_LIMITS
        for _, limits in sorted(covering, key=itemgetter(0)):
            merged = limits.over(merged)
        return merged

    def counted(self) -> Iterable[GlobalLimit]:
        """Those that a service counts."""
        return (limit for one in self.found for limit in one.counted)

    def of_route(self, port: int, route: str) -> RouteLimit:
        """What the route says of those that a service counts, else the port."""
        covering = [
            (spot.rank, limit)
            for one in self.found
            for spot, limit in one.of_routes
            if spot.covers(port, route)
        ]
        return max(covering, key=itemgetter(0), default=(0, _NOTHING))[1]

    def rules(self, port: int, route: str, vh: Beside = Beside.OVERRIDE) -> tuple[Rule, ...]:
        """What makes descriptors: of the route, and of the port as the route
        (``include_vh_rate_limits``), else ``vh`` of the filter wants it."""
        covering = [
            one for some in self.found for one in some.rules if one.spot.covers(port, route)
        ]
        of_route = [one for one in covering if one.spot.on_route]
        beside = Beside.INCLUDE if any(one.beside for one in of_route) else vh
        own = any(one.rules for one in of_route)
        if beside is Beside.IGNORE or (beside is Beside.OVERRIDE and own):
            covering = of_route
        return tuple(rule for one in covering for rule in one.rules)


def select(found: Iterable[RateLimits], service: Service | None, place: Place) -> Limits:
    """The limits of a service, or of a pod's own address."""
    return Limits(
        tuple(
            sorted(
                (one for one in found if holds_for(one.targets, one.namespace, service, place)),
                key=lambda one: (one.namespace, one.name),
            )
        )
    )


def compile_envoy_filter(config: ConfigObject) -> tuple[RateLimits, list[Problem]]:
    """The limits, and the patches that have no effect. Raises UnusableError for bad targets."""
    spec = mapping(config.object.get("spec"), "spec")
    reader = _Patches(config.key)
    for index, raw in enumerate(sequence(spec.get("configPatches"), "spec.configPatches")):
        field = f"spec.configPatches[{index}]"
        try:
            if not reader.take(mapping(raw, field), field):
                known = "limits of rates, bodies and times of streams"
                reader.problem(UnusableError(field, f"waypoints understand {known} only"))
        except UnusableError as bad:
            reader.problem(bad)
    found = RateLimits(
        namespace=config.namespace,
        name=config.name,
        targets=read_targets(spec),
        local=tuple(reader.local),
        counted=tuple(reader.counted),
        of_routes=tuple(reader.of_routes),
        rules=tuple(reader.rules),
        bodies=tuple(reader.bodies),
        streams=tuple(reader.streams),
    )
    return found, reader.problems


class _Patches:
    def __init__(self, name: str) -> None:
        self._name = name
        self.local: list[tuple[Spot, LocalLimit]] = []
        self.counted: list[GlobalLimit] = []
        self.of_routes: list[tuple[Spot, RouteLimit]] = []
        self.rules: list[SpotRules] = []
        self.streams: list[tuple[Spot, StreamLimits]] = []
        self.bodies: list[tuple[Spot, int | None]] = []
        self.problems: list[Problem] = []

    def problem(self, bad: UnusableError) -> None:
        self.problems.append(Problem(self._name, bad.field, bad.reason, "the patch has no effect"))

    def take(self, patch: Json, field: str) -> bool:
        """Whether the patch says anything of rates."""
        value = mapping(mapping(patch.get("patch"), field).get("value"), f"{field}.patch.value")
        kind = string(patch.get("applyTo"), f"{field}.applyTo")
        where = f"{field}.patch.value"
        match kind:
            case "HTTP_FILTER":
                return self._filter(value, where)
            case "HTTP_ROUTE" | "VIRTUAL_HOST":
                match = mapping(patch.get("match"), f"{field}.match")
                spot = _spot(match, f"{field}.match", on_route=kind == "HTTP_ROUTE")
                return self._route(spot, value, where)
            case "NETWORK_FILTER" if value.get("name") == MANAGER:
                match = mapping(patch.get("match"), f"{field}.match")
                listener = mapping(match.get("listener"), f"{field}.match.listener")
                port = integer(field_of(listener, "port_number"), f"{field}.match.listener")
                return self._manager(Spot(port), value, where)
            case _:
                return False

    def _manager(self, spot: Spot, value: Json, field: str) -> bool:
        config = unwrapped(field_of(value, "typed_config"), field)
        limits, left = read_stream_limits(config, field)
        for name in left:
            self._ignored(f"{field}.{name}", "waypoints do not follow it")
        if limits:
            self.streams.append((spot, limits))
        return True

    def _filter(self, value: Json, field: str) -> bool:
        name = string(value.get("name"), f"{field}.name")
        config = unwrapped(field_of(value, "typed_config"), field)
        if name == LOCAL:
            self._local(Spot(), config, field)
        elif name == GLOBAL:
            self.counted.append(read_global(config, field))
            self._left_out(config, field)
        elif name == BUFFER:
            self.bodies.append((Spot(), _most_bytes(config, field)))
        else:
            return False
        return True

    def _route(self, spot: Spot, value: Json, field: str) -> bool:
        per_filter = mapping(field_of(value, "typed_per_filter_config"), field)
        taken = False
        if LOCAL in per_filter:
            config, off = _of_route(per_filter[LOCAL], field)
            self._local(spot, {} if off else config, field)
            taken = True
        if GLOBAL in per_filter:
            config, off = _of_route(per_filter[GLOBAL], field)
            limit = RouteLimit(disabled=True) if off else read_route_limit(config, field)
            self.of_routes.append((spot, limit))
            taken = True
        if BUFFER in per_filter:
            config, off = _of_route(per_filter[BUFFER], field)
            off = off or config.get("disabled") is True
            own = mapping(config.get("buffer"), f"{field}.buffer")
            self.bodies.append((spot, None if off else _most_bytes(own, f"{field}.buffer")))
            taken = True
        route = mapping(value.get("route"), f"{field}.route")
        raw = field_of(route, "rate_limits") or field_of(value, "rate_limits")
        if raw is not None:
            beside = field_of(route, "include_vh_rate_limits") is True
            rules = read_rate_limits(raw, f"{field}.rate_limits")
            self.rules.append(SpotRules(spot=spot, rules=rules, beside=beside))
            taken = True
        return taken

    def _local(self, spot: Spot, config: Json, field: str) -> None:
        """Without a word of configuration it is switched off there."""
        limit = read_local(config, f"{self._name}:{field}", field)
        self.local.append((spot, limit))
        self._left_out(config, field)
        if any(rule.cost is not None for rule in limit.rules):
            where = f"{field}.rate_limits.apply_on_stream_done"
            self._ignored(where, "only a service counts what has ended")

    def _left_out(self, config: Json, field: str) -> None:
        for name, reason in LEFT_OUT.items():
            if field_of(config, name) not in (None, False, "", "both"):
                self._ignored(f"{field}.{name}", reason)

    def _ignored(self, field: str, reason: str) -> None:
        self.problems.append(Problem(self._name, field, reason, "the field has no effect"))


def _of_route(raw: Any, field: str) -> tuple[Json, bool]:
    """A filter's configuration for a route, which may be wrapped as a FilterConfig; True where it
    is switched off."""
    config = unwrapped(raw, field)
    if "FilterConfig" in str(config.get("@type")):
        off = boolean(config.get("disabled"), f"{field}.disabled")
        return unwrapped(config.get("config"), field), off
    return config, False


def _most_bytes(config: Json, field: str) -> int:
    where = f"{field}.max_request_bytes"
    size = integer(field_of(config, "max_request_bytes"), where)
    if not 0 < size <= MAX_BUFFER:
        raise UnusableError(where, f"needs 1 to {MAX_BUFFER} bytes, found {size}")
    return size


def _spot(match: Json, field: str, *, on_route: bool) -> Spot:
    route_config = mapping(match.get("routeConfiguration"), f"{field}.routeConfiguration")
    host = mapping(route_config.get("vhost"), f"{field}.routeConfiguration.vhost")
    route = mapping(host.get("route"), f"{field}.routeConfiguration.vhost.route")
    named = string(host.get("name"), field) or string(route_config.get("name"), field)
    port = _PORT.fullmatch(named) if named else None
    given = route_config.get("portNumber")
    number = int(port[1]) if port is not None else given if isinstance(given, int) else 0
    return Spot(number, string(route.get("name"), field) if on_route else "", on_route)
