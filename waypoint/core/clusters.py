"""All clusters that were called: found by name, brought up to date when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from ambient.api.service import LoadBalancing
from ambient.api.workload import Workload
from waypoint.core.balance import Draw
from waypoint.core.cluster import Cluster
from waypoint.core.decision import Upstream
from waypoint.core.peers import Peers

NO_PREFERENCE: Final = LoadBalancing()
FORGET_AFTER_S: Final = 600.0
"""A cluster that was not called for so long begins anew."""
Join = Callable[[tuple[str, int, str]], Peers | None]


class Clusters:
    """``draw`` gives numbers in [0, 1)."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._join: Join | None = None
        self._known: dict[tuple[str, int, str], Cluster] = {}
        self._last: dict[int, Cluster] = {}
        """By the id of the upstream that a cluster was last brought up to date with."""

    def share(self, join: Join) -> None:
        """There are other workers, who are met with ``join``, by a cluster's key."""
        self._join = join

    def __iter__(self) -> Iterator[Cluster]:
        return iter(self._known.values())

    def get(self, upstream: Upstream, own: Workload | None, now_s: float) -> Cluster:
        """The cluster of an upstream, with the endpoints and settings that it has now."""
        last = self._last.get(id(upstream))
        if last is not None and last.source is upstream and last.own is own:
            last.used_s = now_s
            return last
        cluster = self._known.get(upstream.key)
        if cluster is None:
            self._forget(now_s)
            join = partial(self._join, upstream.key) if self._join is not None else None
            cluster = self._known[upstream.key] = Cluster(upstream.cluster, self._draw, join)
        cluster.used_s = now_s
        if cluster.source is upstream and cluster.own is own:
            return cluster
        if len(self._last) > 2 * len(self._known) + 64:
            self._last.clear()
        self._last[id(upstream)] = cluster
        cluster.source, cluster.own = upstream, own
        service = upstream.service
        preference = service.load_balancing if service is not None else NO_PREFERENCE
        cluster.update(upstream.targets, upstream.settings, own, preference, now_s)
        return cluster

    def _forget(self, now_s: float) -> None:
        """Drop what nobody uses any more."""
        for key, cluster in list(self._known.items()):
            busy = cluster.requests or cluster.connections or cluster.pending
            if not busy and now_s - cluster.used_s > FORGET_AFTER_S:
                for host in cluster.hosts.values():
                    host.gone = True
                cluster.leave()
                del self._known[key]
                self._last.clear()
