"""Sends spans to their collectors, in batches; what cannot be sent is dropped and counted."""

from __future__ import annotations

from ambient.telemetry.core.event_names import Event
from waypoint.core import span_wire
from waypoint.core.grpc import status_of_http
from waypoint.core.providers import Tracer
from waypoint.core.span import Reporter, Span
from waypoint.io.batch_export import BatchExport
from waypoint.io.mesh_call import CallError, MeshCalls, make_request


class SpanExport(BatchExport[Tracer, Span]):
    """``run`` has to be running."""

    def __init__(self, calls: MeshCalls, reporter: Reporter) -> None:
        super().__init__(lambda tracer: tracer.name, self._send_spans, Event.SPANS_DROPPED)
        self._calls = calls
        self._reporter = reporter

    async def _send_spans(self, tracer: Tracer, spans: list[Span]) -> int:
        if not tracer.path:
            message = span_wire.otlp(spans, self._reporter)
            await self._calls.grpc(
                tracer.at, span_wire.METHOD, message, tracer.timeout_s, tracer.headers
            )
            return 0
        encode = span_wire.zipkin if tracer.zipkin else span_wire.otlp
        request = make_request("POST", tracer.path, str(tracer.at), tracer.headers)
        kind = "application/json" if tracer.zipkin else "application/x-protobuf"
        request.headers.set("content-type", kind)
        body = encode(spans, self._reporter)
        answer = await self._calls.http(tracer.at, request, body, tracer.timeout_s)
        if answer.status >= 300:
            raise CallError(
                f"{tracer.at}: HTTP status {answer.status}", status_of_http(answer.status)
            )
        return 0
