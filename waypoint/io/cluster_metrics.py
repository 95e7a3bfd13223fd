"""What clusters refuse, repeat and eject, with Envoy's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from waypoint.core.cluster import Cluster
from waypoint.core.clusters import Clusters

LABELS: Final = ("cluster_name",)
COUNTERS: Final[dict[str, tuple[str, Callable[[Cluster], int]]]] = {
    "upstream_rq_retry": ("Retries that were made.", lambda c: c.counts.retries),
    "upstream_rq_retry_overflow": (
        "Retries that were too many at once.",
        lambda c: c.counts.retry_overflows,
    ),
    "upstream_rq_retry_limit_exceeded": (
        "Requests whose retries came to an end.",
        lambda c: c.counts.retry_limits,
    ),
    "upstream_rq_pending_overflow": (
        "Requests and connections beyond a limit.",
        lambda c: c.counts.overflows,
    ),
    "upstream_rq_timeout": ("Requests that took too long.", lambda c: c.counts.timeouts),
    "outlier_detection_ejections_enforced_total": (
        "Endpoints that were ejected.",
        lambda c: c.counts.ejections,
    ),
}
GAUGES: Final[dict[str, tuple[str, Callable[[Cluster], int]]]] = {
    "upstream_rq_active": ("Requests under way.", lambda c: c.requests),
    "upstream_rq_pending_active": ("Requests that wait.", lambda c: c.pending),
    "upstream_cx_active": ("Connections.", lambda c: c.connections),
    "outlier_detection_ejections_active": (
        "Endpoints that are ejected.",
        lambda c: c.ejected,
    ),
}


class ClusterMetrics(Collector):
    """Built at scrape time from what clusters count anyway."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters

    def collect(self) -> Iterator[Metric]:
        """A family for each name; Envoy's counters end without ``_total``."""
        for name, (words, read) in COUNTERS.items():
            yield self._family(
                UnknownMetricFamily(f"envoy_cluster_{name}", words, labels=LABELS), read
            )
        for name, (words, read) in GAUGES.items():
            yield self._family(
                GaugeMetricFamily(f"envoy_cluster_{name}", words, labels=LABELS), read
            )

    def _family(
        self, family: UnknownMetricFamily | GaugeMetricFamily, read: Callable[[Cluster], int]
    ) -> Metric:
        for cluster in self._clusters:
            family.add_metric([cluster.name], read(cluster))
        return family
