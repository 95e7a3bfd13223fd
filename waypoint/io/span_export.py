"""Sends spans to their collectors, in batches; what cannot be sent is dropped and counted."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core import span_wire
from waypoint.core.providers import Tracer
from waypoint.core.span import Reporter, Span
from waypoint.io.mesh_call import CallError, MeshCalls, make_request

FLUSH_S: Final = 1.0
BATCH: Final = 512
MAX_WAITING: Final = 8192
"""Spans that wait for one collector; more are dropped."""

log = get_logger("waypoint")


class SpanExport:
    """``run`` has to be running."""

    def __init__(self, calls: MeshCalls, reporter: Reporter) -> None:
        self._calls = calls
        self._reporter = reporter
        self._waiting: defaultdict[Tracer, list[Span]] = defaultdict(list)
        self._some = trio.Event()
        self.sent = 0
        self.dropped = 0

    def add(self, tracer: Tracer, span: Span) -> None:
        """Report a span some time soon."""
        waiting = self._waiting[tracer]
        if len(waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        waiting.append(span)
        self._some.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(FLUSH_S)
            self._some = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Send everything that waits; collectors do not wait for each other."""
        waiting, self._waiting = self._waiting, defaultdict(list)
        async with trio.open_nursery() as nursery:
            for tracer, spans in waiting.items():
                nursery.start_soon(self._send_all, tracer, spans)

    async def _send_all(self, tracer: Tracer, spans: list[Span]) -> None:
        for start in range(0, len(spans), BATCH):
            batch = spans[start : start + BATCH]
            try:
                await self._send(tracer, batch)
                self.sent += len(batch)
            except CallError as error:
                self.dropped += len(spans) - start
                log.warning(Event.SPANS_DROPPED, provider=tracer.name, error=str(error))
                return

    async def _send(self, tracer: Tracer, spans: list[Span]) -> None:
        if not tracer.path:
            message = span_wire.otlp(spans, self._reporter)
            await self._calls.grpc(
                tracer.at, span_wire.METHOD, message, tracer.timeout_s, tracer.headers
            )
            return
        encode = span_wire.zipkin if tracer.zipkin else span_wire.otlp
        request = make_request("POST", tracer.path, str(tracer.at), tracer.headers)
        kind = "application/json" if tracer.zipkin else "application/x-protobuf"
        request.headers.set("content-type", kind)
        body = encode(spans, self._reporter)
        answer = await self._calls.http(tracer.at, request, body, tracer.timeout_s)
        if answer.status >= 300:
            raise CallError(f"{tracer.at}: HTTP status {answer.status}")
