"""Istio's metrics of a waypoint: plain numbers while it runs, families when it is scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.metric_names import TrafficLabels
from ambient.telemetry.io.policy_hits import PolicyHits

_LABELS: Final = tuple(
    label for label in TrafficLabels._fields if not label.endswith(("_region", "_zone"))
)
"""Istio's waypoints have no localities."""
_RESPONSE: Final = ("request_protocol", "response_flags", "connection_security_policy")
BUCKETS: Final = names.DURATION_BUCKETS
"""Of all histograms: Envoy has one list."""
Overrides = tuple[tuple[str, str, str | None], ...]
"""Metric, tag, value; None removes the tag, and with an empty tag the whole metric."""


class Live(Protocol):
    """What a relay counts into."""

    sent: int
    received: int


class _Histogram:
    """One bucket more than bounds, for what is above all."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def merge(self, other: _Histogram) -> None:
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total


class Series:
    """The requests of one combination of labels."""

    __slots__ = ("duration", "messages_in", "messages_out", "received", "sent")

    def __init__(self) -> None:
        self.duration, self.received, self.sent = _Histogram(), _Histogram(), _Histogram()
        self.messages_in = self.messages_out = 0

    def add(self, duration_ms: float, request_bytes: int, response_bytes: int) -> None:
        """A finished request."""
        for histogram, value in (
            (self.duration, duration_ms),
            (self.received, request_bytes),
            (self.sent, response_bytes),
        ):
            histogram.buckets[bisect_left(BUCKETS, value)] += 1
            histogram.total += value


class _Connections:
    __slots__ = ("closed", "opened", "received", "sent")

    def __init__(self) -> None:
        self.opened = self.closed = self.received = self.sent = 0


class OpenConnection:
    """A connection that is being counted."""

    __slots__ = ("_received", "_sent", "live", "series")

    def __init__(self, series: _Connections, live: Live) -> None:
        self.series = series
        self.live = live
        self._received = self._sent = 0

    def take(self) -> None:
        """Count what has moved since."""
        self.series.received += self.live.received - self._received
        self.series.sent += self.live.sent - self._sent
        self._received, self._sent = self.live.received, self.live.sent


Key = tuple[TrafficLabels, int, str, Overrides]
Samples = dict[tuple[tuple[str, str], ...], float]


class RequestMetrics(Collector):
    """``istio_requests_total`` and its family, and ``istio_tcp_*``."""

    def __init__(self) -> None:
        self._requests: dict[Key, Series] = {}
        self._connections: dict[tuple[TrafficLabels, Overrides], _Connections] = {}
        self._live: set[OpenConnection] = set()
        self.policies = PolicyHits()

    def series(
        self, labels: TrafficLabels, status: int, grpc_status: str, overrides: Overrides = ()
    ) -> Series:
        """What counts requests like this one; status 0 means that the client got no answer."""
        key = (labels, status, grpc_status, overrides)
        series = self._requests.get(key)
        if series is None:
            series = self._requests[key] = Series()
        return series

    def opened(
        self, labels: TrafficLabels, live: Live, overrides: Overrides = ()
    ) -> OpenConnection:
        """A connection that is not HTTP; its bytes are read when scraped."""
        series = self._connections.setdefault((labels, overrides), _Connections())
        series.opened += 1
        found = OpenConnection(series, live)
        self._live.add(found)
        return found

    def closed(self, connection: OpenConnection) -> None:
        """It has ended."""
        connection.take()
        connection.series.closed += 1
        self._live.discard(connection)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        for connection in self._live:
            connection.take()
        yield self._counter(names.REQUESTS, "Requests.")
        for name, text, attribute in (
            (names.REQUEST_MILLISECONDS, "Time of requests.", "duration"),
            (names.REQUEST_BYTES, "Sizes of requests.", "received"),
            (names.RESPONSE_BYTES, "Sizes of responses.", "sent"),
        ):
            yield self._histogram(name, text, attribute)
        yield self._messages(names.REQUEST_MESSAGES, "gRPC messages of requests.", "messages_in")
        yield self._messages(names.RESPONSE_MESSAGES, "gRPC messages of responses.", "messages_out")
        for name, text, attribute in (
            (names.CONNECTIONS_OPENED, "Connections opened.", "opened"),
            (names.CONNECTIONS_CLOSED, "Connections closed.", "closed"),
            (names.SENT_BYTES, "Bytes to clients.", "sent"),
            (names.RECEIVED_BYTES, "Bytes from clients.", "received"),
        ):
            yield self._tcp(name, text, attribute)
        yield from self.policies.collect()

    def _counter(self, name: str, text: str) -> Metric:
        samples: Samples = {}
        for key, series in self._requests.items():
            _add(samples, _request_labels(key, name), sum(series.duration.buckets))
        return _counter_family(name, text, samples)

    def _messages(self, name: str, text: str, attribute: str) -> Metric:
        samples: Samples = {}
        for (labels, _, _, overrides), series in self._requests.items():
            count = getattr(series, attribute)
            if count:
                found = {k: v for k, v in _base(labels).items() if k not in _RESPONSE}
                _add(samples, _overridden(found, name, overrides), count)
        return _counter_family(name, text, samples)

    def _tcp(self, name: str, text: str, attribute: str) -> Metric:
        samples: Samples = {}
        for (labels, overrides), series in self._connections.items():
            found = _overridden(_base(labels), name, overrides)
            _add(samples, found, getattr(series, attribute))
        return _counter_family(name, text, samples)

    def _histogram(self, name: str, text: str, attribute: str) -> Metric:
        merged: dict[tuple[tuple[str, str], ...], _Histogram] = {}
        for key, series in self._requests.items():
            labels = _request_labels(key, name)
            if labels is not None:
                merged.setdefault(tuple(labels.items()), _Histogram()).merge(
                    getattr(series, attribute)
                )
        family = Metric(name, text, "histogram")
        bounds = [*map(str, map(float, BUCKETS)), "+Inf"]
        for pairs, histogram in merged.items():
            seen = 0
            for bound, count in zip(bounds, histogram.buckets, strict=True):
                seen += count
                family.add_sample(f"{name}_bucket", {**dict(pairs), "le": bound}, seen)
            family.add_sample(f"{name}_sum", dict(pairs), histogram.total)
            family.add_sample(f"{name}_count", dict(pairs), seen)
        return family


def _base(labels: TrafficLabels) -> dict[str, str]:
    return dict(zip(_LABELS, labels.values(), strict=False))


def _request_labels(key: Key, name: str) -> dict[str, str] | None:
    labels, status, grpc_status, overrides = key
    found = _base(labels)
    found["response_code"], found["grpc_response_status"] = str(status), grpc_status
    return _overridden(found, name, overrides)


def _overridden(labels: dict[str, str], name: str, overrides: Overrides) -> dict[str, str] | None:
    """The labels of one metric; None where it is not counted."""
    for metric, tag, value in overrides:
        if metric != name:
            continue
        if not tag:
            return None
        if value is None:
            labels.pop(tag, None)
        else:
            labels[tag] = value
    return labels


def _add(samples: Samples, labels: dict[str, str] | None, value: float) -> None:
    if labels is not None:
        key = tuple(labels.items())
        samples[key] = samples.get(key, 0) + value


def _counter_family(name: str, text: str, samples: Samples) -> Metric:
    family = Metric(name, text, "counter")
    for pairs, value in samples.items():
        family.add_sample(f"{name}_total", dict(pairs), value)
    return family
