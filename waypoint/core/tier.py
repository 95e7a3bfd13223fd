"""The endpoints of one priority, by locality where localities have weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waypoint.core.balance import HASHED, Draw, Slate
from waypoint.core.host import Host
from waypoint.core.load_balancer import LoadBalancer
from waypoint.core.priority import locality_weight
from waypoint.core.weighted import draw_weighted


class Tier:
    """One priority. ``hosts`` are those that may be used."""

    def __init__(
        self,
        members: Sequence[Host],
        settings: LoadBalancer,
        draw: Draw,
        clock: Callable[[], float],
        *,
        panic: bool,
    ) -> None:
        healthy = [host for host in members if not host.monitor.ejected]
        self.hosts = tuple(members if panic else healthy)
        self._draw = draw
        self._slates: list[Slate] = []
        self._weights: list[float] = []
        weighted = any(host.standing.weight for host in members) and not panic
        shares = _by_locality(members) if weighted else {}
        if weighted and settings.balancing not in HASHED:
            for (total, weight), here in shares.values():
                if here:
                    weights = [host.weight for host in here]
                    self._slates.append(Slate(here, weights, settings, draw, clock))
                    self._weights.append(locality_weight(weight, len(here), total))
        elif self.hosts:
            flat = [self._flat_weight(host, shares) for host in self.hosts]
            self._slates.append(Slate(self.hosts, flat, settings, draw, clock))
            self._weights.append(1.0)

    @staticmethod
    def _flat_weight(host: Host, shares: dict[object, _Share]) -> float:
        """A weight among all endpoints: its part of what its locality gets."""
        share = shares.get(host.standing.locality)
        if share is None:
            return host.weight
        (total, weight), here = share
        part = host.weight / sum(other.weight for other in here)
        return locality_weight(weight, len(here), total) * part

    def pick(self, value: int | None, attempt: int) -> Host:
        """An endpoint; there has to be one."""
        if len(self._slates) == 1:
            return self._slates[0].pick(value, attempt)
        chosen = draw_weighted(self._weights, self._draw())
        return self._slates[chosen].pick(value, attempt)


_Share = tuple[tuple[int, int], list[Host]]
"""A locality's number of endpoints and weight, and its healthy endpoints."""


def _by_locality(members: Sequence[Host]) -> dict[object, _Share]:
    found: dict[object, _Share] = {}
    for host in members:
        (total, weight), here = found.get(host.standing.locality, ((0, host.standing.weight), []))
        if not host.monitor.ejected:
            here.append(host)
        found[host.standing.locality] = ((total + 1, weight), here)
    return found
