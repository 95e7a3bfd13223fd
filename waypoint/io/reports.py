"""What is told of an exchange once it has ended: access logs, metrics, spans."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

import trio

from ambient.api.address import NetworkAddress
from ambient.api.workload import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import ACCESS_SCOPE, Standing, get_logger
from waypoint.core.authz import Verdict
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination
from waypoint.core.message import Headers, Request
from waypoint.core.place import Place
from waypoint.core.program import Program
from waypoint.core.providers import LogService
from waypoint.core.record import Record
from waypoint.core.span import Reporter, span_of
from waypoint.core.telemetry import Watch
from waypoint.core.trace_context import begin, inject
from waypoint.core.watches import Watches
from waypoint.io.access_logs import AccessLogs
from waypoint.io.log_export import LogExport
from waypoint.io.mesh_call import MeshCalls
from waypoint.io.request_metrics import Live, OpenConnection, Overrides, RequestMetrics, Series
from waypoint.io.span_export import SpanExport

access_log = get_logger(ACCESS_SCOPE)
log = get_logger("waypoint")
_ids = random.Random()  # ids of traces need not be secret
KNOWN_PARTIES: Final = 1024


class Parties:
    """What exchanges share that have the same client, destination, route and endpoint: fields of
    their log lines, and the series that they are counted in."""

    __slots__ = ("_who", "series", "source", "standing")

    def __init__(self, record: Record, who: tuple[object, ...], source: Workload | None) -> None:
        self._who = who  # kept, so that their ids stay theirs
        self.source = source
        self.standing = Standing(record.standing_fields())
        self.series: dict[tuple[object, ...], Series] = {}


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
        self._parties: dict[tuple[object, ...], Parties] = {}
        self._generation = -1
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
        self.sent_logs = LogExport(calls, self._reporter)

    async def run(self) -> None:
        """Send spans and logs to their collectors, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.spans.run)
            nursery.start_soon(self.sent_logs.run)

    async def flush(self) -> None:
        """Send what still waits; nothing more will come."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.spans.flush)
            nursery.start_soon(self.sent_logs.flush)

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
        parties = self._parties_of(record)
        self._log(watch, record, parties)
        if record.decided is not None:
            verdict = record.decided.verdict
            if verdict.by is not None or verdict.dry_runs:
                self._note_verdict(verdict, record.request_id)
        if not record.method:
            return
        source = parties.source
        if watch.measured:
            self._count(record, parties, _overrides(watch, record) if watch.overrides else ())
        trace, tracer = record.trace, watch.tracing.tracer
        if trace is not None and trace.sampled and tracer is not None and not watch.tracing.silent:
            span = span_of(record, trace, watch.tracing, self._reporter, source, os.environ.get)
            self.spans.add(tracer, span)

    def _parties_of(self, record: Record) -> Parties:
        """Known until the mesh changes."""
        known, generation = self._parties, self._directory.generation
        if generation != self._generation or len(known) >= KNOWN_PARTIES:
            self._generation = generation
            known.clear()
        who = record.parties()
        key = (*map(id, who[:-1]), who[-1])
        found = known.get(key)
        if found is None:
            found = known[key] = Parties(record, who, self._source(record))
        return found

    def _count(self, record: Record, parties: Parties, overrides: Overrides) -> None:
        key = (record.status, record.flag, record.grpc, record.grpc_status, overrides)
        series = parties.series.get(key)
        if series is None:
            labels = record.labels(parties.source)
            series = self.metrics.series(labels, record.status, record.grpc_status, overrides)
            parties.series[key] = series
        asked = record.received + _size(record.request_headers) + len(record.path)
        series.add(record.duration_ms, asked, record.sent + _size(record.response_headers))
        if record.grpc:
            series.messages_in += record.request_messages
            series.messages_out += record.response_messages

    def _note_verdict(self, verdict: Verdict, request_id: str) -> None:
        """Which policy decided, and which would have."""
        policies = self.metrics.policies
        if verdict.by is not None:
            policies.decided(verdict.by.policy, allowed=verdict.allowed)
        if not verdict.dry_runs:
            return
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

    def _log(self, watch: Watch, record: Record, parties: Parties) -> None:
        if watch.logs is None:
            event = Event.REQUEST_COMPLETE if record.method else Event.CONN_CLOSED
            access_log.info_with(event, record.fields, parties.standing)
            return
        for one in watch.logs:
            if not all(passes(record) for passes in one.passes):
                continue
            if isinstance(one.sink, LogService):
                self.sent_logs.add(one.sink, record)
            else:
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


def _size(headers: Headers | None) -> int:
    """Of a head, as HTTP/1.1 would write it."""
    if headers is None:
        return 0
    size = 16
    for name, value in headers.items:
        size += len(name) + len(value) + 4
    return size


def _new_id(digits: int) -> str:
    return f"{_ids.getrandbits(4 * digits) or 1:0{digits}x}"
