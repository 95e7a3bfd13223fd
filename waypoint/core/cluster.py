"""A service's port and subset as something that is called: its endpoints, their health, limits.

The only state that routing keeps between requests. It has no clock and makes no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from ambient.api.service import LoadBalancing
from ambient.api.workload import Workload
from waypoint.core.balance import HASHED, Draw
from waypoint.core.host import Host, Key, Target
from waypoint.core.locality import standings
from waypoint.core.outlier import Cause, Detector
from waypoint.core.peers import Peers, Use
from waypoint.core.priority import DEFAULT_PANIC_PERCENT, Count, Load, loads
from waypoint.core.retry_load import RetryLoad
from waypoint.core.tier import Tier
from waypoint.core.traffic_policy import ClusterSettings
from waypoint.core.weighted import draw_weighted

PICKS: Final = 5
"""How often a choice is repeated that fell on an endpoint that was tried already (Istio)."""
PRIORITIES_PER_UPDATE: Final = 2
"""With ``retryRemoteLocalities``, priorities are left after so many tries (Istio)."""


Join = Callable[[], Peers | None]


@dataclass(slots=True)
class Counts:
    """What has happened since the cluster was first called."""

    retries: int = 0
    retry_overflows: int = 0
    retry_limits: int = 0
    overflows: int = 0
    timeouts: int = 0
    ejections: int = 0


class Cluster:
    """``draw`` gives numbers in [0, 1). Times are in seconds, of a clock that never goes back.

    ``join`` meets the other workers where there are any; it is called once there is a limit that
    holds for all of them together.
    """

    def __init__(self, name: str, draw: Draw, join: Join | None = None) -> None:
        self.name = name
        self._join = join
        self._peers: Peers | None = None
        self._seen = -1
        """``Peers.changes`` when we looked last."""
        self.settings = ClusterSettings()
        self.hosts: dict[Key, Host] = {}
        self.used_s = 0.0
        self.source: object = None
        self.own: object = None
        """Together: what it was last brought up to date with."""
        self.requests = 0
        self.retries = 0
        self.pending = 0
        self.connections = 0
        self.counts = Counts()
        self.detector: Detector | None = None
        self._load: RetryLoad | None = None
        self._draw = draw
        self._given: tuple[object, ...] = (None, None, None, None)
        self._now_s = 0.0
        self._tiers: list[Tier] = []
        self._loads: tuple[Load, ...] = ()
        self._stale = True

    def update(
        self,
        targets: tuple[Target, ...],
        settings: ClusterSettings,
        own: Workload | None,
        preference: LoadBalancing,
        now_s: float,
    ) -> list[Host]:
        """The endpoints and settings of now; what stays keeps its state. Returns what left.

        ``own`` is the waypoint's workload and ``preference`` the service's, for localities.
        """
        given = (targets, settings, own, preference)
        if all(new is old for new, old in zip(given, self._given, strict=True)):
            return []
        same = given == self._given
        self._given = given
        if same:
            return []
        self._meet(settings)
        if settings.outliers != self.settings.outliers or self.detector is None:
            self._judge_anew(settings, now_s)
        if settings.retry_budget != self.settings.retry_budget:
            self._load = RetryLoad.of(settings.retry_budget)
        self.settings = settings
        workloads = [target.workload for target in targets]
        stands = standings(
            workloads,
            own,
            settings.balancer.locality,
            preference,
            outliers=settings.outliers is not None,
            mesh=settings.mesh_locality,
        )
        old, self.hosts = self.hosts, {}
        for target, stand in zip(targets, stands, strict=True):
            if stand is None:
                continue
            host = old.pop(target.key) if target.key in old else Host(target, now_s)
            host.target, host.standing = target, stand
            host.weight = max(target.workload.capacity, 1)
            self.hosts[target.key] = host
        self._part_with(old.values())
        self._stale, self._seen = True, -1
        self.refresh()
        return list(old.values())

    def _judge_anew(self, settings: ClusterSettings, now_s: float) -> None:
        """Outlier detection has other settings: what was counted is forgotten."""
        with self._held(self.hosts.values()):
            for host in self.hosts.values():
                host.monitor.clear()
                host.monitor.ejected_at_s = None
            if self.detector is not None:
                self.detector.ejected = 0
        self.detector = Detector(settings.outliers, now_s) if settings.outliers else None

    def _part_with(self, left: Collection[Host]) -> None:
        with self._held(left):
            for host in left:
                host.gone = True
                if self.detector is not None:
                    self.detector.gone(host.monitor)
        if self._peers is not None:
            for host in left:
                self._peers.forget(host.key)

    # Other workers

    def _meet(self, settings: ClusterSettings) -> None:
        if settings.outliers is None and not settings.limited:
            self.leave()
        elif self._peers is None and self._join is not None:
            self._peers = self._join()
            self._publish()

    def leave(self) -> None:
        """Nothing is shared with other workers any more."""
        if self._peers is not None:
            self._peers.leave()
            self._peers = None

    def _publish(self) -> None:
        if self._peers is not None:
            self._peers.publish(Use(self.requests, self.pending, self.connections, self.retries))

    def _held(self, hosts: Iterable[Host]) -> AbstractContextManager[None]:
        """The state of hosts as all workers know it, to be changed for all."""
        if self._peers is None or self.detector is None:
            return nullcontext()
        return self._peers.held(self.detector, {host.key: host.monitor for host in hosts})

    def refresh(self) -> None:
        """Take over what other workers have found out about the endpoints."""
        peers = self._peers
        if peers is not None and self._seen != (changes := peers.changes):
            with self._held(self.hosts.values()):
                self._seen, self._stale = changes, True

    @property
    def ejected(self) -> int:
        """How many endpoints are ejected; where all workers know, only one of them tells."""
        self.refresh()
        if self.detector is None or (self._peers is not None and not self._peers.first):
            return 0
        return self.detector.ejected

    # Choosing

    def pick(
        self,
        now_s: float,
        value: int | None = None,
        *,
        tried: Sequence[Key] = (),
        allowed: Collection[Key] | None = None,
        remote: bool = False,
    ) -> Host | None:
        """An endpoint, or None where none is left.

        ``value`` is the request's hash. Endpoints in ``tried`` are avoided while there are others;
        ``allowed`` are those that admit the client (None: all). ``remote``: after some tries the
        priorities that they went to are left.
        """
        self._settle(now_s)
        tier: Tier | None
        if len(self._tiers) == 1 and not remote:
            tier = self._tiers[0] if self._loads[0].percent else None
        else:
            tier = self._tier(value, self._left(tried) if remote else frozenset())
        if tier is None:
            return None
        if not tried and allowed is None:
            return tier.pick(value, 0)
        last = None
        for attempt in range(PICKS):
            host = tier.pick(value, attempt)
            if allowed is not None and host.key not in allowed:
                continue
            if host.key not in tried:
                return host
            last = host
        for tiers in ([tier], self._tiers):  # chance did not find one: look
            usable = [h for t in tiers for h in t.hosts if allowed is None or h.key in allowed]
            fresh = [host for host in usable if host.key not in tried]
            if fresh:
                return fresh[int(self._draw() * len(fresh))]
        return last or (usable[int(self._draw() * len(usable))] if usable else None)

    def host_at(self, address: str, now_s: float) -> Host | None:
        """The endpoint with an address (``ip:port``), if it may be used."""
        self._settle(now_s)
        found = (h for tier in self._tiers for h in tier.hosts)
        return next((h for h in found if str(h.target.address) == address), None)

    def _left(self, tried: Sequence[Key]) -> frozenset[int]:
        """The priorities of tries; in whole groups, so that each is left a while after."""
        whole = len(tried) // PRIORITIES_PER_UPDATE * PRIORITIES_PER_UPDATE
        known = (self.hosts.get(key) for key in tried[:whole])
        return frozenset(host.standing.priority for host in known if host is not None)

    def _tier(self, value: int | None, without: frozenset[int]) -> Tier | None:
        if len(self._loads) == 1 and not without:
            return self._tiers[0] if self._loads[0].percent else None
        parts = [load.percent for load in self._loads]
        if without:
            kept = [0 if rank in without else part for rank, part in enumerate(parts)]
            others = [
                100 if tier.hosts and rank not in without else 0
                for rank, tier in enumerate(self._tiers)
            ]
            first = next((rank for rank, part in enumerate(others) if part), None)
            if any(kept):
                parts = kept
            elif first is not None:
                parts = [100 if rank == first else 0 for rank in range(len(parts))]
        if not any(parts):
            return None
        if len(parts) == 1:
            return self._tiers[0]
        hashed = value is not None and self.settings.balancer.balancing in HASHED
        point = value % 100 / 100 if hashed and value is not None else self._draw()
        return self._tiers[draw_weighted(parts, point)]

    def _settle(self, now_s: float) -> None:
        """Let ejections end, and take changes over."""
        self._now_s = self.used_s = now_s
        detector = self.detector
        if detector is not None:
            if self._peers is not None:
                self.refresh()
            if detector.due(now_s):
                with self._held(self.hosts.values()):
                    monitors = [host.monitor for host in self.hosts.values()]
                    self._changed(detector.sweep(monitors, now_s))
        if self._stale:
            self._rebuild()

    def _rebuild(self) -> None:
        self._stale = False
        members: list[list[Host]] = []
        for host in self.hosts.values():
            while len(members) <= host.standing.priority:
                members.append([])
            members[host.standing.priority].append(host)
        counts = [Count(sum(not h.monitor.ejected for h in tier), len(tier)) for tier in members]
        self._loads = loads(counts, self.panic_percent)
        self._tiers = [
            Tier(tier, self.settings.balancer, self._draw, self._clock, panic=load.panic)
            for tier, load in zip(members, self._loads, strict=True)
        ]

    def _clock(self) -> float:
        return self._now_s

    @property
    def panic_percent(self) -> int:
        """Below this share of healthy endpoints, all are used."""
        outliers = self.settings.outliers
        return DEFAULT_PANIC_PERCENT if outliers is None else outliers.min_health_percent

    # What came of it

    def answered(self, host: Host, status: int, now_s: float) -> Cause | None:
        """An endpoint gave a response. Returns why it is ejected, if it is."""
        detector, peers = self.detector, self._peers
        if detector is None or host.gone:
            return None
        if peers is None:
            return self._ejected(detector.response(host.monitor, status, len(self.hosts), now_s))
        if status < 500 and peers.blameless(host.key):
            return None
        with self._held((host,)):
            return self._ejected(detector.response(host.monitor, status, len(self.hosts), now_s))

    def failed(self, host: Host, now_s: float, *, timeout: bool = False) -> Cause | None:
        """An endpoint gave no response. Returns why it is ejected, if it is."""
        if self.detector is None or host.gone:
            return None
        with self._held((host,)):
            return self._ejected(
                self.detector.failure(host.monitor, len(self.hosts), now_s, timeout=timeout)
            )

    def _ejected(self, cause: Cause | None) -> Cause | None:
        if cause is not None:
            self._changed(True)
            self.counts.ejections += 1
        return cause

    def _changed(self, changed: bool) -> None:
        """Others can be used than before; inside of ``_held``."""
        if changed:
            self._stale = True
            if self._peers is not None:
                self._peers.changed()

    def begun(self, host: Host) -> None:
        """A request is under way there, until it is ``over``."""
        if self._load is not None:
            self._load.requests.note(self._now_s)
        self.requests += 1
        host.active += 1
        if self._peers is not None:
            self._publish()

    def over(self, host: Host) -> None:
        """It has ended, in whatever way."""
        self.requests -= 1
        host.active -= 1
        if self._peers is not None:
            self._publish()

    def count(self, *, pending: int = 0, connections: int = 0, retries: int = 0) -> None:
        """More of these are under way, or less."""
        self.pending += pending
        self.connections += connections
        self.retries += retries
        self._publish()

    # Limits, which hold for all workers together

    @property
    def _all(self) -> Use:
        own = Use(self.requests, self.pending, self.connections, self.retries)
        return own if self._peers is None else own.plus(self._peers.others())

    @property
    def full(self) -> bool:
        """Has it as many requests as it may (``http2MaxRequests``)?"""
        used = self.requests if self._peers is None else self._all.requests
        return used >= self.settings.pool.max_requests

    @property
    def queue_full(self) -> bool:
        """Do as many requests wait for a connection as may (``http1MaxPendingRequests``)?"""
        return self._all.pending >= self.settings.pool.max_pending

    @property
    def connected(self) -> bool:
        """Has it as many connections as it may (``maxConnections``)?"""
        return self._all.connections >= self.settings.pool.max_connections

    def retried(self, now_s: float) -> None:
        """A retry was decided."""
        self.counts.retries += 1
        if self._load is not None:
            self._load.retried(now_s)

    def retry_room(self, now_s: float, own: int = 0) -> bool:
        """May another retry begin (``maxRetries``, or the retry budget)? ``own`` is 1 for a
        request that has a place already."""
        used, budget = self._all, self.settings.retry_budget
        under_way = used.retries - own
        if budget is None:
            return under_way < self.settings.pool.max_retries
        if self._load is None:
            return under_way < budget.allowed(used.requests + used.pending)
        return under_way < budget.min_concurrency or self._load.room(budget, now_s)
