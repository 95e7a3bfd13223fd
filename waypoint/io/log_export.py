"""Sends access logs to collectors: OTLP over gRPC, and Envoy's access log service."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.log_wire import Form, LogEntry, form_of, message, refused
from waypoint.core.objects import UnusableError
from waypoint.core.providers import EXPORT_TIMEOUT_S, LogService
from waypoint.core.record import Record
from waypoint.core.span import Reporter
from waypoint.io.batch_export import BatchExport
from waypoint.io.mesh_call import MeshCalls

METRIC = "envoy_access_logs_open_telemetry_access_log_logs"

log = get_logger("waypoint")


class LogExport(Collector):
    """Counts under Envoy's names what was written and dropped. ``run`` has to be running."""

    def __init__(self, calls: MeshCalls, reporter: Reporter) -> None:
        self._calls = calls
        self._reporter = reporter
        self._forms: dict[LogService, Form] = {}
        self._batches: BatchExport[LogService, LogEntry] = BatchExport(
            lambda service: service.name, self._send, Event.LOGS_DROPPED
        )
        self.run = self._batches.run
        self.flush = self._batches.flush

    @property
    def sent(self) -> int:
        """Records that collectors took."""
        return self._batches.sent

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        return self._batches.dropped

    def add(self, service: LogService, record: Record) -> None:
        """Report a record some time soon, if it is for this collector."""
        form = self._forms.get(service)
        if form is None:
            form = self._forms[service] = _form(service)
        entry = form(record)
        if entry is not None:
            self._batches.add(service, entry)

    async def _send(self, service: LogService, entries: list[LogEntry]) -> int:
        method, wire = message(entries, service, self._reporter)
        answer = await self._calls.grpc(service.at, method, wire, EXPORT_TIMEOUT_S)
        count, why = refused(answer, service)
        if count:
            log.warning(Event.LOGS_DROPPED, provider=service.name, count=count, error=why)
        return min(count, len(entries))

    def collect(self) -> Iterator[Metric]:
        """Two counters, which end without ``_total`` as Envoy's do."""
        for name, words, count in (
            ("written", "Records of access logs that collectors took.", self.sent),
            ("dropped", "Records of access logs that are lost.", self.dropped),
        ):
            yield UnknownMetricFamily(f"{METRIC}_{name}", words, value=count)


def _form(service: LogService) -> Form:
    """A format that cannot be understood gives way to Istio's own, and is told once."""
    try:
        return form_of(service)
    except UnusableError as bad:
        log.warning(Event.ACCESS_LOG_FAILED, path=str(service.at), error=str(bad))
        return form_of(
            LogService(
                name=service.name,
                at=service.at,
                protocol=service.protocol,
                log_name=service.log_name,
            )
        )
