"""DestinationRule ``connectionPool``: how much a waypoint asks of a service at once."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from waypoint.core.objects import (
    Json,
    UnusableError,
    boolean,
    duration_s,
    integer,
    mapping,
    number,
    string,
)

UNLIMITED: Final = (1 << 32) - 1
"""What Istio sets where nothing is configured."""
CONNECT_TIMEOUT_S: Final = 10.0
IDLE_S: Final = 3600.0
MAX_KEEPALIVE: Final = 32767
"""Linux takes no more seconds, nor probes beyond 127."""
UPGRADES: Final = ("", "DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")


class Keepalive(msgspec.Struct, frozen=True):
    """TCP keep-alive; 0 leaves the system's value."""

    probes: int = 0
    time_s: int = 0
    interval_s: int = 0


class RetryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Retries as a part of the requests: of those in flight, or (with ``interval_s``) of those that
    began in the last while. ``min_rate`` retries in ``rate_s`` seconds are always allowed.
    """

    percent: float = 20.0
    min_concurrency: int = 3
    interval_s: float = 0.0
    min_rate: int = 0
    rate_s: float = 1.0

    def allowed(self, requests: int) -> int:
        """How many retries there may be beside so many requests, in flight or in the interval."""
        least = self.min_concurrency if not self.interval_s else 0
        return max(least, int(requests * self.percent / 100))


class ConnectionPool(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one cluster (a service's port and subset). Seconds, and counts."""

    max_connections: int = UNLIMITED
    connect_timeout_s: float | None = None
    keepalive: Keepalive | None = None
    max_connection_s: float | None = None
    tcp_idle_s: float = IDLE_S
    max_pending: int = UNLIMITED
    max_requests: int = UNLIMITED
    max_requests_per_connection: int = 0
    """0 is no limit; 1 means a connection for each request."""
    max_retries: int = UNLIMITED
    http_idle_s: float | None = None
    """None leaves it to the waypoint."""
    upgrade: bool | None = None
    """HTTP/2 to endpoints; None follows the port."""
    use_client_protocol: bool = False
    max_concurrent_streams: int = 0

    @property
    def limited(self) -> bool:
        """Is there a limit to what may be under way at once in the whole cluster?"""
        limits = (self.max_connections, self.max_pending, self.max_requests, self.max_retries)
        return min(limits) < UNLIMITED


DEFAULT: Final = ConnectionPool()


class MeshPool(msgspec.Struct, frozen=True, kw_only=True):
    """What the mesh says where no DestinationRule does."""

    connect_timeout_s: float | None = None
    keepalive: Keepalive | None = None
    upgrade: bool | None = None

    def fill(self, pool: ConnectionPool) -> ConnectionPool:
        """A pool with what it leaves open."""
        open_ = {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not None and getattr(pool, name) is None
        }
        return msgspec.structs.replace(pool, **open_) if open_ else pool


def compile_mesh_pool(spec: Json) -> MeshPool:
    """``connectTimeout``, ``tcpKeepalive`` and ``h2UpgradePolicy`` of MeshConfig. Raises
    UnusableError."""
    return MeshPool(
        connect_timeout_s=duration_s(spec.get("connectTimeout"), "connectTimeout"),
        keepalive=_keepalive(spec.get("tcpKeepalive"), "tcpKeepalive"),
        upgrade=_upgrade(spec.get("h2UpgradePolicy"), "h2UpgradePolicy"),
    )


def _upgrade(raw: Any, field: str) -> bool | None:
    policy = string(raw, field)
    if policy not in UPGRADES:
        raise UnusableError(field, f"{policy!r} is not known")
    return {"UPGRADE": True, "DO_NOT_UPGRADE": False}.get(policy)


def compile_connection_pool(raw: Any, field: str) -> ConnectionPool:
    """Raises UnusableError."""
    spec = mapping(raw, field)
    tcp, http = mapping(spec.get("tcp"), f"{field}.tcp"), mapping(spec.get("http"), f"{field}.http")

    def seconds(part: str, name: str) -> float | None:
        return duration_s((tcp if part == "tcp" else http).get(name), f"{field}.{part}.{name}")

    def count(part: str, name: str) -> int:
        given = integer((tcp if part == "tcp" else http).get(name), f"{field}.{part}.{name}")
        return given or UNLIMITED

    tcp_idle_s = seconds("tcp", "idleTimeout")
    per_connection = count("http", "maxRequestsPerConnection")
    streams = count("http", "maxConcurrentStreams")
    return ConnectionPool(
        max_connections=count("tcp", "maxConnections"),
        connect_timeout_s=seconds("tcp", "connectTimeout"),
        keepalive=_keepalive(tcp.get("tcpKeepalive"), f"{field}.tcp.tcpKeepalive"),
        max_connection_s=seconds("tcp", "maxConnectionDuration"),
        tcp_idle_s=tcp_idle_s or IDLE_S,
        max_pending=count("http", "http1MaxPendingRequests"),
        max_requests=count("http", "http2MaxRequests"),
        max_requests_per_connection=0 if per_connection == UNLIMITED else per_connection,
        max_retries=count("http", "maxRetries"),
        http_idle_s=seconds("http", "idleTimeout") or tcp_idle_s,
        upgrade=_upgrade(http.get("h2UpgradePolicy"), f"{field}.http.h2UpgradePolicy"),
        use_client_protocol=boolean(
            http.get("useClientProtocol"), f"{field}.http.useClientProtocol"
        ),
        max_concurrent_streams=0 if streams == UNLIMITED else streams,
    )


def _keepalive(raw: Any, field: str) -> Keepalive | None:
    if raw is None:
        return None
    spec = mapping(raw, field)
    time_s = duration_s(spec.get("time"), f"{field}.time") or 0.0
    interval_s = duration_s(spec.get("interval"), f"{field}.interval") or 0.0
    return Keepalive(
        probes=min(integer(spec.get("probes"), f"{field}.probes"), 127),
        time_s=min(round(time_s), MAX_KEEPALIVE),
        interval_s=min(round(interval_s), MAX_KEEPALIVE),
    )


def compile_retry_budget(raw: Any, field: str) -> RetryBudget | None:
    """``trafficPolicy.retryBudget``. Raises UnusableError."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    percent = number(spec.get("percent"), f"{field}.percent")
    if percent is not None and percent > 100:
        raise UnusableError(f"{field}.percent", f"{percent:g} is more than 100")
    return RetryBudget(
        percent=20.0 if percent is None else percent,
        min_concurrency=integer(spec.get("minRetryConcurrency"), f"{field}.minRetryConcurrency", 3),
        interval_s=duration_s(spec.get("budgetInterval"), f"{field}.budgetInterval") or 0.0,
    )


def compile_retry_constraint(raw: Any, field: str) -> RetryBudget | None:
    """``retryConstraint`` of an XBackendTrafficPolicy (GEP-3388). Raises UnusableError."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    budget = mapping(spec.get("budget"), f"{field}.budget")
    percent = integer(budget.get("percent"), f"{field}.budget.percent", 20)
    if percent > 100:
        raise UnusableError(f"{field}.budget.percent", f"{percent} is more than 100")
    rate = mapping(spec.get("minRetryRate"), f"{field}.minRetryRate")
    return RetryBudget(
        percent=percent,
        min_concurrency=0,
        interval_s=duration_s(budget.get("interval"), f"{field}.budget.interval") or 10.0,
        min_rate=integer(rate.get("count"), f"{field}.minRetryRate.count", 10),
        rate_s=duration_s(rate.get("interval"), f"{field}.minRetryRate.interval") or 1.0,
    )
