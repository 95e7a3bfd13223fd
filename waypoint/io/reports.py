"""What is told of an exchange once it has ended: access logs, metrics, spans."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from ambient.api.address import NetworkAddress
from ambient.api.workload import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import ACCESS_SCOPE, get_logger
from waypoint.core.authz import Verdict
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination
from waypoint.core.message import Headers, Request
from waypoint.core.place import Place
from waypoint.core.program import Program
from waypoint.core.record import Record
from waypoint.core.span import Reporter, span_of
from waypoint.core.telemetry import Watch
from waypoint.core.trace_context import begin, inject
from waypoint.core.watches import Watches
from waypoint.io.access_logs import AccessLogs
from waypoint.io.mesh_call import MeshCalls
from waypoint.io.request_metrics import Counted, Live, OpenConnection, Overrides, RequestMetrics
from waypoint.io.span_export import SpanExport

access_log = get_logger(ACCESS_SCOPE)
log = get_logger("waypoint")
_ids = random.Random()  # ids of traces need not be secret


class Reports:
    """One for the process; ``directory`` knows who the clients are."""

    def __init__(
        self,
        calls: MeshCalls,
        directory: Directory,
        network: str,
        place: Place,
        draw: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._network = network
        self._draw = draw
        self._reporter = Reporter(
            service=f"{place.identity.service_account}.{place.namespace}",
            node=f"waypoint~{place.gateway}.{place.namespace}",
            namespace=place.namespace,
            name=place.gateway,
        )
        self.watches = Watches(Program(place))
        self.metrics = RequestMetrics()
        self.logs = AccessLogs()
        self.spans = SpanExport(calls, self._reporter)

    def trace(self, request: Request, record: Record, to: Destination, *, known_id: bool) -> None:
        """Begin the request's span and make the next hop its child, where anybody wants traces."""
        tracing = self.watches.of(to.service).tracing
        if tracing.tracer is None:
            return
        trace = begin(
            request.headers,
            sampling=tracing.sampling,
            by_request_id=tracing.by_request_id,
            known_id=known_id,
            draw=self._draw,
            new_id=_new_id,
        )
        if tracing.propagate:
            inject(request.headers, trace, w3c=tracing.tracer.w3c, b3=tracing.tracer.b3)
        record.trace, record.trace_id = trace, trace.trace_id
        record.request_id = request.headers.first("x-request-id") or record.request_id

    def finished(self, record: Record) -> None:
        """An exchange or a raw connection has ended."""
        watch = self.watches.of(record.to.service)
        self._log(watch, record)
        if record.decided is not None:
            self._note_verdict(record.decided.verdict, record.request_id)
        if not record.method:
            return
        source = self._source(record)
        if watch.measured:
            self.metrics.request(_counted(record, source, _overrides(watch, record)))
        trace, tracer = record.trace, watch.tracing.tracer
        if trace is not None and trace.sampled and tracer is not None and not watch.tracing.silent:
            span = span_of(record, trace, watch.tracing, self._reporter, source, os.environ.get)
            self.spans.add(tracer, span)

    def _note_verdict(self, verdict: Verdict, request_id: str) -> None:
        """Which policy decided, and which would have."""
        policies = self.metrics.policies
        if verdict.by is not None:
            policies.decided(verdict.by.policy, allowed=verdict.allowed)
        policies.would_deny(verdict.dry_run_denials)
        for policy in verdict.dry_run_denials:
            log.info(Event.POLICY_DRY_RUN, policy=policy, request_id=request_id)

    def opened(self, record: Record, live: Live) -> OpenConnection | None:
        """A raw connection has an endpoint, or is known to get none."""
        watch = self.watches.of(record.to.service)
        if not watch.measured:
            return None
        labels = record.labels(self._source(record))
        return self.metrics.opened(labels, live, _overrides(watch, record))

    def closed(self, connection: OpenConnection | None) -> None:
        """It has ended."""
        if connection is not None:
            self.metrics.closed(connection)

    def _log(self, watch: Watch, record: Record) -> None:
        if watch.logs is None:
            event = Event.REQUEST_COMPLETE if record.method else Event.CONN_CLOSED
            access_log.info(event, **record.fields())
            return
        for one in watch.logs:
            if all(passes(record) for passes in one.passes):
                self.logs.write(one.sink, record)

    def _source(self, record: Record) -> Workload | None:
        return self._directory.workload_by_address(NetworkAddress(self._network, record.peer.ip))


def _overrides(watch: Watch, record: Record) -> Overrides:
    found: list[tuple[str, str, str | None]] = []
    for override in watch.overrides.values():
        if override.disabled:
            found.append((override.metric, "", None))
        for tag, value in override.tags.items():
            found.append((override.metric, tag, value(record) if value is not None else None))
    return tuple(found)


def _counted(record: Record, source: Workload | None, overrides: Overrides) -> Counted:
    return Counted(
        labels=record.labels(source),
        status=record.status,
        grpc_status=record.grpc_status,
        overrides=overrides,
        duration_ms=record.duration_ms,
        request_bytes=record.received + _size(record.request_headers) + len(record.path),
        response_bytes=record.sent + _size(record.response_headers),
        request_messages=record.request_messages,
        response_messages=record.response_messages,
    )


def _size(headers: Headers | None) -> int:
    """Of a head, as HTTP/1.1 would write it."""
    if headers is None:
        return 0
    return 16 + sum(len(name) + len(value) + 4 for name, value in headers)


def _new_id(digits: int) -> str:
    return f"{_ids.getrandbits(4 * digits) or 1:0{digits}x}"
