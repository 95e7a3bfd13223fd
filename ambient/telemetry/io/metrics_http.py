"""The scrape endpoint (``/metrics``, ``/stats/prometheus``) and the traffic counters behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.metric_names import TRAFFIC_LABELS, ResponseFlag, TrafficLabels
from ambient.telemetry.io.http import Handler, Request, Response, Routes, listen, serve_http
from ambient.telemetry.io.policy_hits import PolicyHits


class LiveBytes(Protocol):
    """What the relay counts into while a connection lives; plain ints."""

    sent: int
    received: int


class OpenConnection:
    """A connection that is being counted; ``ByteCounts.closed`` ends it."""

    __slots__ = ("labels", "live", "swapped")

    def __init__(self, labels: TrafficLabels, live: LiveBytes, swapped: bool) -> None:
        self.labels = labels
        self.live = live
        self.swapped = swapped

    def counts(self) -> tuple[int, int]:
        """Bytes (client to server, server to client) up to now."""
        sent, received = self.live.sent, self.live.received
        return (received, sent) if self.swapped else (sent, received)


class TrafficMetrics(Collector):
    """Istio's TCP metrics. Bytes of open connections are read at scrape time, so the data path
    only adds to plain ints.
    """

    def __init__(self) -> None:
        self._opened: dict[TrafficLabels, int] = {}
        self._closed: dict[TrafficLabels, int] = {}
        self._failed: dict[TrafficLabels, int] = {}
        self._bytes: dict[TrafficLabels, tuple[int, int]] = {}
        self._live: set[OpenConnection] = set()
        self._sockets: dict[str, int] = {}
        self.policies = PolicyHits()

    def opened(
        self, labels: TrafficLabels, live: LiveBytes, *, sent_is_response: bool = False
    ) -> OpenConnection:
        """Count a connection as open.

        ``live.sent`` is what went from client to server, unless ``sent_is_response``.
        """
        labels = labels._replace(response_flags=ResponseFlag.FINE)
        self._opened[labels] = self._opened.get(labels, 0) + 1
        connection = OpenConnection(labels, live, sent_is_response)
        self._live.add(connection)
        return connection

    def closed(self, connection: OpenConnection, flag: str = ResponseFlag.FINE) -> None:
        """Count its end, once; a flag other than ``-`` counts as a failure too."""
        if connection not in self._live:
            return
        self._live.remove(connection)
        labels = connection.labels
        received, sent = self._bytes.get(labels, (0, 0))
        more_received, more_sent = connection.counts()
        self._bytes[labels] = (received + more_received, sent + more_sent)
        final = labels._replace(response_flags=flag)
        self._closed[final] = self._closed.get(final, 0) + 1
        if flag != ResponseFlag.FINE:
            self._failed[final] = self._failed.get(final, 0) + 1

    def refused(self, labels: TrafficLabels, flag: str) -> None:
        """Count a connection that failed before it was open."""
        final = labels._replace(response_flags=flag)
        self._failed[final] = self._failed.get(final, 0) + 1

    def socket(self, reporter: str, change: int) -> None:
        """Count an accepted socket in (+1) or out (-1)."""
        self._sockets[reporter] = self._sockets.get(reporter, 0) + change

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        yield from _family(names.CONNECTIONS_OPENED, "Connections opened.", self._opened)
        yield from _family(names.CONNECTIONS_CLOSED, "Connections closed.", self._closed)
        yield from _family(names.CONNECTIONS_FAILED, "Connections failed.", self._failed)
        totals = dict(self._bytes)
        for connection in self._live:
            received, sent = totals.get(connection.labels, (0, 0))
            more_received, more_sent = connection.counts()
            totals[connection.labels] = (received + more_received, sent + more_sent)
        received_total = {labels: counts[0] for labels, counts in totals.items()}
        sent_total = {labels: counts[1] for labels, counts in totals.items()}
        yield from _family(names.RECEIVED_BYTES, "Bytes from client to server.", received_total)
        yield from _family(names.SENT_BYTES, "Bytes from server to client.", sent_total)
        if self._sockets:
            gauge = GaugeMetricFamily(names.SOCKETS_OPEN, "Accepted sockets.", labels=["reporter"])
            for reporter, count in self._sockets.items():
                gauge.add_metric([reporter], count)
            yield gauge
        yield from self.policies.collect()


def _family(name: str, text: str, counts: Mapping[TrafficLabels, int]) -> Iterator[Metric]:
    if counts:
        family = CounterMetricFamily(name, text, labels=TRAFFIC_LABELS)
        for labels, count in counts.items():
            family.add_metric(labels.values(), count)
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
