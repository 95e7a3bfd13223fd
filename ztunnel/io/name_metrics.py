"""How often connections needed the address of an endpoint that has only a name, as Istio counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.api.workload import Workload
from ambient.telemetry.core import metric_names as names


class NameMetrics(Collector):
    """All pods' look-ups, from the cache or not; one per process."""

    def __init__(self) -> None:
        self._lookups: Counter[tuple[str, ...]] = Counter()

    def looked_up(self, source: Workload, hostname: str) -> None:
        """A connection of ``source`` goes to an endpoint of this name."""
        values = (
            source.workload_name,
            source.canonical_name,
            source.canonical_revision,
            source.namespace,
            str(source.identity),
            source.canonical_name,
            source.canonical_revision,
            source.cluster_id,
            hostname,
        )
        self._lookups[tuple(value or names.UNKNOWN for value in values)] += 1

    def collect(self) -> Iterator[Metric]:
        """The family, once it has samples."""
        if self._lookups:
            family = CounterMetricFamily(
                names.ON_DEMAND_DNS,
                "Look-ups of endpoints that have only a name (unstable).",
                labels=names.ON_DEMAND_DNS_LABELS,
            )
            for values, count in self._lookups.items():
                family.add_metric(values, count)
            yield family
