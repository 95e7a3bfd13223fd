"""Which endpoint of several equal ones gets a request; chance and load are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from waypoint.core.hash_ring import HashRing
from waypoint.core.host import Host
from waypoint.core.load_balancer import Balancing, LoadBalancer
from waypoint.core.maglev import Maglev
from waypoint.core.weighted import Schedule

Draw = Callable[[], float]
"""Gives a number in [0, 1) each time."""
HASHED: Final = (Balancing.RING_HASH, Balancing.MAGLEV)


class Slate:
    """Endpoints of which any may be chosen. It stays as it is; a change of health makes another.

    ``weights`` are relative. ``clock`` tells the time in seconds, for endpoints that warm up.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        weights: Sequence[float],
        settings: LoadBalancer,
        draw: Draw,
        clock: Callable[[], float],
    ) -> None:
        self.hosts = tuple(hosts)
        self._weights = weights
        self._settings = settings
        self._draw = draw
        self._clock = clock
        self._turn = int(draw() * len(hosts))
        self._schedule = self._make_schedule()
        self._table = self._make_table()

    def _make_schedule(self) -> Schedule | None:
        """Needed where weights differ or may come to differ."""
        settings = self._settings
        if len(self.hosts) < 2 or settings.balancing not in (
            Balancing.ROUND_ROBIN,
            Balancing.LEAST_REQUEST,
        ):
            return None
        if settings.warmup is None and len(set(self._weights)) == 1:
            return None
        return Schedule(len(self.hosts), self._weight, self._draw())

    def _weight(self, index: int) -> float:
        host, weight = self.hosts[index], self._weights[index]
        if self._settings.warmup is not None:
            weight *= self._settings.warmup.factor(self._clock() - host.added_s)
        if self._settings.balancing is Balancing.LEAST_REQUEST:
            weight /= host.active + 1
        return weight

    def _make_table(self) -> HashRing | Maglev | None:
        settings = self._settings
        if len(self.hosts) < 2 or settings.balancing not in HASHED:
            return None
        names = [str(host.target.address) for host in self.hosts]
        kind = Maglev if settings.balancing is Balancing.MAGLEV else HashRing
        return kind(names, self._weights, settings.size)

    def pick(self, value: int | None, attempt: int) -> Host:
        """An endpoint; ``value`` is the request's hash, ``attempt`` counts from 0."""
        hosts = self.hosts
        if len(hosts) == 1:
            return hosts[0]
        if self._table is not None and value is not None:
            return hosts[self._table.pick(value, attempt)]
        if self._schedule is not None:
            return hosts[self._schedule.pick()]
        if self._settings.balancing is Balancing.ROUND_ROBIN:
            self._turn += 1
            return hosts[self._turn % len(hosts)]
        first = hosts[int(self._draw() * len(hosts))]
        if self._settings.balancing is not Balancing.LEAST_REQUEST:
            return first
        second = hosts[int(self._draw() * len(hosts))]
        return second if second.active < first.active else first
