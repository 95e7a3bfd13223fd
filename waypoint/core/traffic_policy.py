"""``trafficPolicy`` of a DestinationRule: its levels, and which of them counts for a port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from waypoint.core.connection_pool import (
    DEFAULT,
    ConnectionPool,
    RetryBudget,
    compile_connection_pool,
    compile_retry_budget,
)
from waypoint.core.load_balancer import (
    MESH_LOCALITY,
    LoadBalancer,
    LocalitySetting,
    compile_load_balancer,
)
from waypoint.core.objects import Json, Problem, UnusableError, integer, mapping, sequence
from waypoint.core.opening import read_proxy_protocol, read_tunnel
from waypoint.core.outlier import OutlierDetection, compile_outlier_detection
from waypoint.core.session import Session
from waypoint.core.tls_settings import read_tls

T = TypeVar("T")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy says at one level; None says nothing. ``tls`` is as it is written."""

    balancer: LoadBalancer | None = None
    pool: ConnectionPool | None = None
    outliers: OutlierDetection | None = None
    tls: Json | None = None

    def over(self, below: Parts) -> Parts:
        """This, and what is below where this says nothing."""
        return Parts(
            balancer=self.balancer if self.balancer is not None else below.balancer,
            pool=self.pool if self.pool is not None else below.pool,
            outliers=self.outliers if self.outliers is not None else below.outliers,
            tls=self.tls if self.tls is not None else below.tls,
        )


NOTHING: Final = Parts()


class TrafficPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A whole policy: for all ports, for single ones, and what no port can change."""

    parts: Parts = NOTHING
    ports: dict[int, Parts] = {}
    retry_budget: RetryBudget | None = None
    proxy_protocol: Json | None = None
    tunnel: Json | None = None


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a service's port and subset."""

    balancer: LoadBalancer = LoadBalancer()
    pool: ConnectionPool = DEFAULT
    outliers: OutlierDetection | None = None
    retry_budget: RetryBudget | None = None
    tls: Json | None = None
    proxy_protocol: Json | None = None
    tunnel: Json | None = None
    session: Session | None = None
    """Of the service itself (XBackendTrafficPolicy); a route's comes first."""
    mesh_locality: LocalitySetting = MESH_LOCALITY
    """Holds where neither a rule nor the service says anything of localities."""

    @property
    def limited(self) -> bool:
        """Is there a limit to what may be under way at once?"""
        return self.retry_budget is not None or self.pool.limited


DEFAULT_SETTINGS: Final = ClusterSettings()
"""Where no DestinationRule says anything."""


def compile_traffic_policy(
    raw: Any, field: str, owner: str, problems: list[Problem]
) -> TrafficPolicy | None:
    """The policy, or None where there is none. A part that cannot be used is left out, and said.

    Raises UnusableError where it is no object.
    """
    if raw is None:
        return None
    spec = mapping(raw, field)
    ports: dict[int, Parts] = {}
    for index, item in enumerate(sequence(spec.get("portLevelSettings"), field)):
        where = f"{field}.portLevelSettings[{index}]"
        entry = mapping(item, where)
        number = integer(mapping(entry.get("port"), f"{where}.port").get("number"), where)
        ports.setdefault(number, _parts(entry, where, owner, problems))
    reader = _Reader(spec, field, owner, problems)
    return TrafficPolicy(
        parts=_parts(spec, field, owner, problems),
        ports=ports,
        retry_budget=reader.part("retryBudget", compile_retry_budget),
        proxy_protocol=reader.kept("proxyProtocol", read_proxy_protocol),
        tunnel=reader.kept("tunnel", read_tunnel),
    )


def _parts(spec: Json, field: str, owner: str, problems: list[Problem]) -> Parts:
    reader = _Reader(spec, field, owner, problems)
    return Parts(
        balancer=reader.part("loadBalancer", compile_load_balancer),
        pool=reader.part("connectionPool", compile_connection_pool),
        outliers=reader.part("outlierDetection", compile_outlier_detection),
        tls=reader.kept("tls", read_tls),
    )


class _Reader:
    def __init__(self, spec: Json, field: str, owner: str, problems: list[Problem]) -> None:
        self._spec = spec
        self._field = field
        self._owner = owner
        self._problems = problems

    def kept(self, name: str, read: Callable[[Json], object]) -> Json | None:
        """A part as it is written. One that cannot be read is kept, too: nobody may be reached
        without what was asked for."""
        raw = self.part(name, mapping)
        try:
            if raw is not None:
                read(raw)
        except UnusableError as bad:
            effect = "no connection to the endpoints is made"
            self._problems.append(
                Problem(self._owner, f"{self._field}.{bad.field}", bad.reason, effect)
            )
        return raw

    def part(self, name: str, read: Callable[[Any, str], T]) -> T | None:
        """One part; None where it is missing or cannot be used."""
        raw = self._spec.get(name)
        if raw is None:
            return None
        try:
            return read(raw, f"{self._field}.{name}")
        except UnusableError as bad:
            effect = f"{name} is as if it were not there"
            self._problems.append(Problem(self._owner, bad.field, bad.reason, effect))
            return None


def settings_for(
    policy: TrafficPolicy | None, subset: TrafficPolicy | None, port: int
) -> ClusterSettings:
    """What a rule's policy and its subset's amount to for a port.

    A port's settings replace the whole of the destination's: what they leave out is the default.
    A subset overrides part by part.
    """
    policy = policy or TrafficPolicy()
    parts = policy.ports.get(port, policy.parts)
    budget, proxy_protocol, tunnel = policy.retry_budget, policy.proxy_protocol, policy.tunnel
    if subset is not None:
        parts = subset.parts.over(parts)
        if port in subset.ports:
            parts = subset.ports[port].over(parts)
        budget = subset.retry_budget or budget
        proxy_protocol = subset.proxy_protocol or proxy_protocol
        tunnel = subset.tunnel or tunnel
    return ClusterSettings(
        balancer=parts.balancer or LoadBalancer(),
        pool=parts.pool or DEFAULT,
        outliers=parts.outliers,
        retry_budget=budget,
        tls=parts.tls,
        proxy_protocol=proxy_protocol,
        tunnel=tunnel,
    )
