"""DestinationRule ``loadBalancer``: which algorithm, what it hashes, how new endpoints warm up."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import msgspec

from waypoint.core.hash_policy import HashPolicy
from waypoint.core.maglev import DEFAULT_TABLE_SIZE, LARGEST_TABLE_SIZE, is_prime
from waypoint.core.objects import (
    Json,
    UnusableError,
    boolean,
    duration_s,
    integer,
    mapping,
    number,
    sequence,
    string,
    strings,
)

DEFAULT_RING_SIZE: Final = 1024
LARGEST_RING_SIZE: Final = 1 << 20
"""Points of a ring. Envoy allows 8 Mi; a ring is built in one go, while nothing else happens."""
DEFAULT_MINIMUM_PERCENT: Final = 10.0


class Balancing(Enum):
    """How one of several endpoints is chosen."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    RING_HASH = "RING_HASH"
    MAGLEV = "MAGLEV"


SIMPLE: Final = {
    "": Balancing.LEAST_REQUEST,
    "UNSPECIFIED": Balancing.LEAST_REQUEST,
    "LEAST_CONN": Balancing.LEAST_REQUEST,
    "LEAST_REQUEST": Balancing.LEAST_REQUEST,
    "ROUND_ROBIN": Balancing.ROUND_ROBIN,
    "RANDOM": Balancing.RANDOM,
    "PASSTHROUGH": Balancing.PASSTHROUGH,
}


class Warmup(msgspec.Struct, frozen=True, kw_only=True):
    """Slow start: an endpoint that appears gets its full share only after ``duration_s``."""

    duration_s: float
    minimum_percent: float = DEFAULT_MINIMUM_PERCENT
    aggression: float = 1.0

    def factor(self, age_s: float) -> float:
        """What a weight is multiplied with, ``age_s`` after the endpoint appeared (Envoy)."""
        if age_s >= self.duration_s:
            return 1.0
        part = max(age_s, 1.0) / self.duration_s
        grown: float = part ** (1 / self.aggression)
        return min(1.0, max(self.minimum_percent / 100, grown))


class Distribute(msgspec.Struct, frozen=True):
    """From ``origin`` (region/zone/subzone, ``*``) to localities with weights."""

    origin: str
    to: dict[str, int]


class LocalitySetting(msgspec.Struct, frozen=True, kw_only=True):
    """``localityLbSetting``. ``failover`` maps a region to the one that replaces it."""

    enabled: bool = True
    distribute: tuple[Distribute, ...] = ()
    failover: dict[str, str] = {}
    failover_priority: tuple[str, ...] = ()


MESH_LOCALITY: Final = LocalitySetting()
"""Failover by region, zone and subzone holds unless something else is said (Istio)."""


class LoadBalancer(msgspec.Struct, frozen=True, kw_only=True):
    """How endpoints are chosen. ``size`` is that of the ring or of the Maglev table."""

    balancing: Balancing = Balancing.LEAST_REQUEST
    hash_policy: HashPolicy | None = None
    size: int = DEFAULT_RING_SIZE
    warmup: Warmup | None = None
    locality: LocalitySetting | None = None


def compile_load_balancer(raw: Any, field: str) -> LoadBalancer:
    """Raises UnusableError."""
    spec = mapping(raw, field)
    simple = string(spec.get("simple"), f"{field}.simple")
    if simple not in SIMPLE:
        raise UnusableError(f"{field}.simple", f"{simple!r} is not one of {', '.join(SIMPLE)}")
    hashed = spec.get("consistentHash")
    if hashed is not None and simple:
        raise UnusableError(field, "has simple and consistentHash")
    balancing, policy, size = SIMPLE[simple], None, DEFAULT_RING_SIZE
    if hashed is not None:
        balancing, policy, size = _hash(mapping(hashed, f"{field}.consistentHash"), field)
    return LoadBalancer(
        balancing=balancing,
        hash_policy=policy,
        size=size,
        warmup=_warmup(spec, field),
        locality=compile_locality(spec.get("localityLbSetting"), f"{field}.localityLbSetting"),
    )


def _hash(spec: Json, owner: str) -> tuple[Balancing, HashPolicy, int]:
    field = f"{owner}.consistentHash"
    readers: dict[str, Callable[[], HashPolicy]] = {
        "httpHeaderName": lambda: HashPolicy(
            header=string(spec["httpHeaderName"], f"{field}.httpHeaderName").lower()
        ),
        "httpQueryParameterName": lambda: HashPolicy(
            query=string(spec["httpQueryParameterName"], f"{field}.httpQueryParameterName")
        ),
        "useSourceIp": lambda: HashPolicy(source_ip=True),
        "httpCookie": lambda: _cookie(spec["httpCookie"], f"{field}.httpCookie"),
    }
    chosen = [name for name in readers if spec.get(name)]
    if len(chosen) != 1:
        raise UnusableError(field, f"needs exactly one of {', '.join(readers)}")
    policy = readers[chosen[0]]()
    maglev = spec.get("maglev")
    if maglev is not None:
        where = f"{field}.maglev.tableSize"
        given = mapping(maglev, f"{field}.maglev").get("tableSize")
        size = integer(given, where) or DEFAULT_TABLE_SIZE
        if size > LARGEST_TABLE_SIZE or not is_prime(size):
            raise UnusableError(where, f"{size} is not a prime up to {LARGEST_TABLE_SIZE}")
        return Balancing.MAGLEV, policy, size
    ring = mapping(spec.get("ringHash"), f"{field}.ringHash")
    given = ring.get("minimumRingSize", spec.get("minimumRingSize"))
    size = integer(given, f"{field}.ringHash.minimumRingSize") or DEFAULT_RING_SIZE
    return Balancing.RING_HASH, policy, min(size, LARGEST_RING_SIZE)


def _cookie(raw: Any, field: str) -> HashPolicy:
    spec = mapping(raw, field)
    name = string(spec.get("name"), f"{field}.name")
    if not name:
        raise UnusableError(f"{field}.name", "required")
    attributes = tuple(
        (string(item.get("name"), field), string(item.get("value"), field))
        for raw_item in sequence(spec.get("attributes"), f"{field}.attributes")
        if (item := mapping(raw_item, f"{field}.attributes")) is not None
    )
    ttl = spec.get("ttl")
    return HashPolicy(
        cookie=name,
        path=string(spec.get("path"), f"{field}.path"),
        ttl_s=None if ttl is None else duration_s(ttl, f"{field}.ttl") or 0.0,
        attributes=attributes,
    )


def _warmup(spec: Json, field: str) -> Warmup | None:
    old_s = duration_s(spec.get("warmupDurationSecs"), f"{field}.warmupDurationSecs")
    if spec.get("warmup") is None:
        return None if old_s is None else Warmup(duration_s=old_s)
    where = f"{field}.warmup"
    warmup = mapping(spec.get("warmup"), where)
    length_s = duration_s(warmup.get("duration"), f"{where}.duration")
    if length_s is None:
        raise UnusableError(f"{where}.duration", "required")
    percent = number(warmup.get("minimumPercent"), f"{where}.minimumPercent")
    aggression = number(warmup.get("aggression"), f"{where}.aggression")
    if percent is not None and percent > 100:
        raise UnusableError(f"{where}.minimumPercent", f"{percent:g} is more than 100")
    if aggression is not None and aggression < 1:
        raise UnusableError(f"{where}.aggression", f"{aggression:g} is less than 1")
    return Warmup(
        duration_s=length_s,
        minimum_percent=DEFAULT_MINIMUM_PERCENT if percent is None else percent,
        aggression=aggression or 1.0,
    )


def compile_locality(raw: Any, field: str) -> LocalitySetting | None:
    """``localityLbSetting`` of a rule or of the mesh. Raises UnusableError."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    distribute: list[Distribute] = []
    for index, item in enumerate(sequence(spec.get("distribute"), f"{field}.distribute")):
        where = f"{field}.distribute[{index}]"
        entry = mapping(item, where)
        to = mapping(entry.get("to"), f"{where}.to")
        weights = {name: integer(weight, f"{where}.to[{name}]") for name, weight in to.items()}
        if sum(weights.values()) != 100:
            raise UnusableError(f"{where}.to", "the weights do not make 100")
        distribute.append(Distribute(string(entry.get("from"), f"{where}.from"), weights))
    failover: dict[str, str] = {}
    for index, item in enumerate(sequence(spec.get("failover"), f"{field}.failover")):
        entry = mapping(item, f"{field}.failover[{index}]")
        origin = string(entry.get("from"), f"{field}.failover[{index}].from")
        failover[origin] = string(entry.get("to"), f"{field}.failover[{index}].to")
    labels = strings(spec.get("failoverPriority"), f"{field}.failoverPriority")
    if distribute and (failover or labels):
        raise UnusableError(field, "has distribute and failover")
    return LocalitySetting(
        enabled=boolean(spec.get("enabled"), f"{field}.enabled", default=True),
        distribute=tuple(distribute),
        failover=failover,
        failover_priority=labels,
    )
