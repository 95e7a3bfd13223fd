"""Spans as collectors take them: OTLP's protobuf, and Zipkin's JSON (version 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from ambient.api.pb import otlp_pb2
from waypoint.core.span import Reporter, Span

METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def otlp(spans: Iterable[Span], reporter: Reporter) -> bytes:
    """An ExportTraceServiceRequest."""
    made = otlp_pb2.ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.extend(_attributes({"service.name": reporter.service}))
    scope = resource.scope_spans.add()
    for span in spans:
        scope.spans.append(
            otlp_pb2.Span(
                trace_id=bytes.fromhex(span.trace.trace_id),
                span_id=bytes.fromhex(span.trace.span_id),
                parent_span_id=bytes.fromhex(span.trace.parent_id),
                name=span.name,
                kind=otlp_pb2.Span.SPAN_KIND_SERVER,
                start_time_unix_nano=span.begun_ns,
                end_time_unix_nano=span.ended_ns,
                attributes=_attributes(span.tags),
                status=otlp_pb2.Status(
                    code=otlp_pb2.Status.STATUS_CODE_ERROR
                    if span.error
                    else otlp_pb2.Status.STATUS_CODE_UNSET
                ),
            )
        )
    return bytes(made.SerializeToString())


def _attributes(tags: Mapping[str, str]) -> list[otlp_pb2.KeyValue]:
    return [
        otlp_pb2.KeyValue(key=name, value=otlp_pb2.AnyValue(string_value=value))
        for name, value in tags.items()
    ]


def zipkin(spans: Iterable[Span], reporter: Reporter) -> bytes:
    """The body of a POST to ``/api/v2/spans``."""
    return msgspec.json.encode([_zipkin(span, reporter) for span in spans])


def _zipkin(span: Span, reporter: Reporter) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace.trace_id,
        "id": span.trace.span_id,
        "name": span.name,
        "kind": "SERVER",
        "timestamp": span.begun_ns // 1000,
        "duration": max(1, (span.ended_ns - span.begun_ns) // 1000),
        "localEndpoint": {"serviceName": reporter.service},
        "tags": span.tags,
    }
    if span.trace.parent_id:
        found["parentId"] = span.trace.parent_id
    return found
