"""Counts of the DNS proxy, under Istio's names (ztunnel src/dns/metrics.rs)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.api.workload import Workload
from ambient.telemetry.core import metric_names as names


class DnsLabels(NamedTuple):
    """In the order of ``DNS_LABELS``."""

    query_type: str
    protocol: str
    canonical_service: str
    canonical_revision: str

    @classmethod
    def of(cls, query_type: str, protocol: str, source: Workload | None) -> DnsLabels:
        """The labels of a query; a source that is not known (yet) reads ``unknown``."""
        service = source.canonical_name if source else ""
        revision = source.canonical_revision if source else ""
        return cls(query_type, protocol, service or names.UNKNOWN, revision or names.UNKNOWN)


class DnsMetrics(Collector):
    """All pods' queries; one per process."""

    def __init__(self) -> None:
        self._requests: Counter[DnsLabels] = Counter()
        self._forwarded: Counter[DnsLabels] = Counter()
        self._failed: Counter[DnsLabels] = Counter()
        self._durations: dict[DnsLabels, _Durations] = {}

    def request(self, labels: DnsLabels) -> None:
        """A query came in."""
        self._requests[labels] += 1

    def forwarded(self, labels: DnsLabels) -> None:
        """It is somebody else's to answer."""
        self._forwarded[labels] += 1

    def answered(self, labels: DnsLabels, seconds: float, *, failed: bool) -> None:
        """Somebody else did answer, or (``failed``) nobody did."""
        self._durations.setdefault(labels, _Durations()).add(seconds)
        if failed:
            self._failed[labels] += 1

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        yield from _counts(names.DNS_REQUESTS, "DNS queries (unstable).", self._requests)
        yield from _counts(
            names.DNS_UPSTREAM_REQUESTS, "DNS queries passed on (unstable).", self._forwarded
        )
        yield from _counts(
            names.DNS_UPSTREAM_FAILURES, "DNS queries nobody answered (unstable).", self._failed
        )
        if self._durations:
            family = HistogramMetricFamily(
                names.DNS_UPSTREAM_SECONDS,
                "Seconds until a query that was passed on was answered (unstable).",
                labels=names.DNS_LABELS,
            )
            for labels, durations in self._durations.items():
                family.add_metric(labels, durations.buckets(), durations.total_s)
            yield family


class _Durations:
    """One histogram."""

    def __init__(self) -> None:
        self._counts = [0] * (len(names.DNS_BUCKETS) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(names.DNS_BUCKETS, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many were no longer than that."""
        bounds = [*map(str, names.DNS_BUCKETS), "+Inf"]
        return [(bound, sum(self._counts[: at + 1])) for at, bound in enumerate(bounds)]


def _counts(name: str, text: str, counts: Mapping[DnsLabels, int]) -> Iterator[Metric]:
    if counts:
        family = CounterMetricFamily(name, text, labels=names.DNS_LABELS)
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family
