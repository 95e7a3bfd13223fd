"""The scrape endpoint (``/metrics``, ``/stats/prometheus``) and the traffic counters behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Protocol

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.metric_names import TRAFFIC_LABELS, ResponseFlag, TrafficLabels
from ambient.telemetry.io.http import Handler, Request, Response, Routes, listen, serve_http
from ambient.telemetry.io.policy_hits import PolicyHits

FORGET_S: Final = 3600.0
"""Far more than the time between two scrapes, and what Prometheus' rates look back usually."""
_LOOK_S: Final = 60.0


class LiveBytes(Protocol):
    """What the relay counts into while a connection lives; plain ints."""

    sent: int
    received: int


class _Series:
    """What is counted for one combination of labels."""

    __slots__ = ("closed", "failed", "labels", "live", "opened", "received", "sent", "used_s")

    def __init__(self, labels: TrafficLabels) -> None:
        self.labels = labels
        self.live = 0
        self.used_s = 0.0
        """When a connection last ended."""
        self.opened = 0
        self.closed: dict[str, int] = {}
        """By response flag, as ``failed``."""
        self.failed: dict[str, int] = {}
        self.received = 0
        self.sent = 0


class OpenConnection:
    """A connection that is being counted; ``TrafficMetrics.closed`` ends it."""

    __slots__ = ("live", "series", "swapped")

    def __init__(self, series: _Series, live: LiveBytes, swapped: bool) -> None:
        self.series = series
        self.live = live
        self.swapped = swapped

    def counts(self) -> tuple[int, int]:
        """Bytes (client to server, server to client) up to now."""
        sent, received = self.live.sent, self.live.received
        return (received, sent) if self.swapped else (sent, received)


class TrafficMetrics(Collector):
    """Istio's TCP metrics. Bytes of open connections are read at scrape time, so the data path
    only adds to plain ints. Series that nothing has used for ``FORGET_S`` are forgotten: otherwise
    every name that a pod ever had would stay.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = clock()
        self._series: dict[TrafficLabels, _Series] = {}
        self._live: set[OpenConnection] = set()
        self._sockets: dict[str, int] = {}
        self.policies = PolicyHits()

    def opened(
        self, labels: TrafficLabels, live: LiveBytes, *, sent_is_response: bool = False
    ) -> OpenConnection:
        """Count a connection as open.

        ``live.sent`` is what went from client to server, unless ``sent_is_response``. The
        ``response_flags`` of ``labels`` are those of a connection that is fine.
        """
        series = self._of(labels)
        series.opened += 1
        series.live += 1
        connection = OpenConnection(series, live, sent_is_response)
        self._live.add(connection)
        return connection

    def closed(self, connection: OpenConnection, flag: str = ResponseFlag.FINE) -> None:
        """Count its end, once; a flag other than ``-`` counts as a failure too."""
        if connection not in self._live:
            return
        self._live.remove(connection)
        series = connection.series
        series.live -= 1
        series.used_s = self._clock()
        received, sent = connection.counts()
        series.received += received
        series.sent += sent
        series.closed[flag] = series.closed.get(flag, 0) + 1
        if flag != ResponseFlag.FINE:
            series.failed[flag] = series.failed.get(flag, 0) + 1

    def refused(self, labels: TrafficLabels, flag: str) -> None:
        """Count a connection that failed before it was open."""
        series = self._of(labels)
        series.used_s = self._clock()
        series.failed[flag] = series.failed.get(flag, 0) + 1

    def _of(self, labels: TrafficLabels) -> _Series:
        series = self._series.get(labels)
        if series is None:
            if self._clock() - self._looked_s > _LOOK_S:
                self._forget_unused()
            series = self._series[labels] = _Series(labels)
        return series

    def _forget_unused(self) -> None:
        self._looked_s = self._clock()
        since_s = self._looked_s - FORGET_S
        unused = [one for one in self._series.values() if not one.live and one.used_s < since_s]
        for one in unused:
            del self._series[one.labels]

    def socket(self, reporter: str, change: int) -> None:
        """Count an accepted socket in (+1) or out (-1)."""
        self._sockets[reporter] = self._sockets.get(reporter, 0) + change

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        self._forget_unused()
        known = self._series.values()
        opened = [one for one in known if one.opened]
        yield from _family(
            names.CONNECTIONS_OPENED, "Connections opened.", ((s.labels, s.opened) for s in opened)
        )
        closed = (_flagged(s.labels, s.closed) for s in known)
        yield from _family(names.CONNECTIONS_CLOSED, "Connections closed.", chain(*closed))
        failed = (_flagged(s.labels, s.failed) for s in known)
        yield from _family(names.CONNECTIONS_FAILED, "Connections failed.", chain(*failed))
        totals = {series: (series.received, series.sent) for series in opened}
        for connection in self._live:
            received, sent = totals[connection.series]
            more_received, more_sent = connection.counts()
            totals[connection.series] = (received + more_received, sent + more_sent)
        received_totals = ((s.labels, counts[0]) for s, counts in totals.items())
        yield from _family(names.RECEIVED_BYTES, "Bytes from client to server.", received_totals)
        sent_totals = ((s.labels, counts[1]) for s, counts in totals.items())
        yield from _family(names.SENT_BYTES, "Bytes from server to client.", sent_totals)
        if self._sockets:
            gauge = GaugeMetricFamily(names.SOCKETS_OPEN, "Accepted sockets.", labels=["reporter"])
            for reporter, count in self._sockets.items():
                gauge.add_metric([reporter], count)
            yield gauge
        yield from self.policies.collect()


def _flagged(
    labels: TrafficLabels, counts: Mapping[str, int]
) -> Iterator[tuple[TrafficLabels, int]]:
    for flag, count in counts.items():
        yield labels._replace(response_flags=flag), count


def _family(name: str, text: str, counts: Iterable[tuple[TrafficLabels, int]]) -> Iterator[Metric]:
    family = CounterMetricFamily(name, text, labels=TRAFFIC_LABELS)
    for labels, count in counts:
        family.add_metric(labels.values(), count)
    if family.samples:
        yield family


def metrics_handler(registry: CollectorRegistry) -> Handler:
    """Exposes ``registry`` in the format that the Accept header prefers."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(200, encode(registry), content_type)

    return metrics


async def serve_metrics(
    host: str,
    port: int,
    registry: CollectorRegistry,
    extra_routes: Mapping[str, Handler] | None = None,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the metrics and ``extra_routes`` until cancelled; starts with the port it is bound to.

    Raises OSError where the port cannot be bound.
    """
    routes = Routes()
    for path in ("/metrics", "/stats/prometheus"):
        routes.add(path, metrics_handler(registry))
    for path, handler in (extra_routes or {}).items():
        routes.add(path, handler)
    listeners = await listen(host, port)
    task_status.started(listeners[0].socket.getsockname()[1])
    await serve_http(listeners, routes)
