"""Istio's request metrics. Counting adds to plain ints; families are built at scrape time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.metric_names import TrafficLabels
from ambient.telemetry.io.policy_hits import PolicyHits

REQUEST_LABELS: Final = (
    *(label for label in TrafficLabels._fields if not label.endswith(("_region", "_zone"))),
    *names.REQUEST_LABELS,
)
"""Istio's request metrics have no localities."""
_TRAFFIC_LABELS: Final = len(REQUEST_LABELS) - len(names.REQUEST_LABELS)
assert REQUEST_LABELS[:_TRAFFIC_LABELS] == TrafficLabels._fields[:_TRAFFIC_LABELS]


class _Series:
    """One combination of labels; one bucket more than bounds, for what is above all."""

    __slots__ = ("buckets", "total_ms")

    def __init__(self) -> None:
        self.buckets = [0] * (len(names.DURATION_BUCKETS) + 1)
        self.total_ms = 0.0


class RequestMetrics(Collector):
    """``istio_requests_total`` and ``istio_request_duration_milliseconds``."""

    def __init__(self) -> None:
        self._series: dict[tuple[TrafficLabels, int], _Series] = {}
        self.policies = PolicyHits()

    def request(self, labels: TrafficLabels, status: int, duration_ms: float) -> None:
        """Count a finished request; status 0 means that the client got none."""
        series = self._series.get((labels, status))
        if series is None:
            series = self._series[(labels, status)] = _Series()
        series.buckets[bisect_left(names.DURATION_BUCKETS, duration_ms)] += 1
        series.total_ms += duration_ms

    def collect(self) -> Iterator[Metric]:
        """The two families."""
        requests = CounterMetricFamily(names.REQUESTS, "Requests.", labels=REQUEST_LABELS)
        durations = HistogramMetricFamily(
            names.REQUEST_MILLISECONDS, "Time of requests.", labels=REQUEST_LABELS
        )
        bounds = [*map(str, map(float, names.DURATION_BUCKETS)), "+Inf"]
        for (labels, status), series in self._series.items():
            values = [*labels.values()[:_TRAFFIC_LABELS], str(status), ""]
            requests.add_metric(values, sum(series.buckets))
            seen, buckets = 0, []
            for bound, count in zip(bounds, series.buckets, strict=True):
                seen += count
                buckets.append((bound, float(seen)))
            durations.add_metric(values, buckets, sum_value=series.total_ms)
        yield requests
        yield durations
        yield from self.policies.collect()
