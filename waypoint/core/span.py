"""The span of an exchange: its name and tags, as Envoy and Istio say them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ambient.api.workload import Workload
from waypoint.core.grpc import GrpcStatus
from waypoint.core.record import Record
from waypoint.core.telemetry import Tracing
from waypoint.core.trace_context import Trace

DECORATOR = "x-envoy-decorator-operation"
FAILURES: Final = frozenset(
    (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.RESOURCE_EXHAUSTED,
        GrpcStatus.UNIMPLEMENTED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""gRPC statuses that are the server's fault (Envoy)."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A server's span; times in nanoseconds since 1970."""

    name: str
    trace: Trace
    begun_ns: int
    ended_ns: int
    tags: dict[str, str]
    error: bool


class Reporter(msgspec.Struct, frozen=True, kw_only=True):
    """Who reports: the waypoint's own names."""

    service: str
    """``<account>.<namespace>``."""
    node: str
    namespace: str
    name: str
    cluster_id: str = ""


def span_of(
    record: Record,
    trace: Trace,
    tracing: Tracing,
    reporter: Reporter,
    source: Workload | None,
    environment: Callable[[str], str | None],
) -> Span:
    """The span of an exchange that has ended."""
    begun_ns = int(record.begun_s * 1e9)
    tags = _envoy_tags(record, reporter)
    if tracing.istio_tags:
        tags |= _istio_tags(record, reporter, source)
    for tag in tracing.tags:
        if value := tag.value(record, environment):
            tags[tag.name] = value
    for dry_run in record.decided.verdict.dry_runs if record.decided is not None else ():
        prefix = f"istio.authorization.dry_run.{dry_run.effect.lower()}_policy"
        tags[f"{prefix}.name"] = str(dry_run.by or "none")
        tags[f"{prefix}.result"] = "denied" if dry_run.denies else "allowed"
    error = record.status >= 500 or record.status == 0 or record.grpc_number in FAILURES
    if error:
        tags["error"] = "true"
    longest = tracing.tracer.max_tag_length if tracing.tracer is not None else 256
    return Span(
        name=_name(record),
        trace=trace,
        begun_ns=begun_ns,
        ended_ns=begun_ns + int(record.duration_ms * 1e6),
        tags={name: value[:longest] for name, value in tags.items()},
        error=error,
    )


def _name(record: Record) -> str:
    said = record.response_headers.first(DECORATOR) if record.response_headers else None
    if said:
        return said
    service = record.service
    host = service.hostname if service is not None else record.to.address.host
    return f"{host}:{record.to.address.port}/*"


def _envoy_tags(record: Record, reporter: Reporter) -> dict[str, str]:
    decided = record.decided
    cluster = decided.upstream.cluster if decided is not None and decided.upstream else ""
    address = str(record.target.address) if record.target is not None else ""
    found = {
        "component": "proxy",
        "node_id": reporter.node,
        "guid:x-request-id": record.request_id,
        "http.url": f"http://{record.authority}{record.path}",
        "http.method": record.method,
        "http.protocol": record.protocol,
        "http.status_code": str(record.status),
        "user_agent": record.user_agent or "-",
        "downstream_cluster": "-",
        "peer.address": str(record.peer.ip),
        "request_size": str(record.received),
        "response_size": str(record.sent),
        "response_flags": record.flag,
        "upstream_cluster": cluster,
        "upstream_cluster.name": cluster,
        "upstream_address": address,
        "upstream.address": address,
    }
    if record.grpc:
        found["grpc.path"] = record.path
        found["grpc.authority"] = record.authority
        headers = record.request_headers
        found["grpc.content_type"] = (headers.first("content-type") or "") if headers else ""
        found["grpc.status_code"] = record.grpc_status
        found["grpc.message"] = _grpc_message(record)
    return {name: value for name, value in found.items() if value}


def _grpc_message(record: Record) -> str:
    for headers in (record.response_trailers, record.response_headers):
        if headers is not None and (message := headers.first("grpc-message")):
            return message
    return ""


def _istio_tags(record: Record, reporter: Reporter, source: Workload | None) -> dict[str, str]:
    found = {
        "istio.canonical_service": reporter.name,
        "istio.canonical_revision": "latest",
        "istio.namespace": reporter.namespace,
        "istio.cluster_id": reporter.cluster_id,
        "istio.mesh_id": "cluster.local",
    }
    target = record.target.workload if record.target is not None else None
    for side, workload in (("source", source), ("destination", target)):
        if workload is None:
            continue
        found |= {
            f"istio.{side}_workload": workload.workload_name,
            f"istio.{side}_workload_type": workload.workload_type.name.lower(),
            f"istio.{side}_namespace": workload.namespace,
            f"istio.{side}_cluster_id": workload.cluster_id,
            f"istio.{side}_canonical_service": workload.canonical_name,
            f"istio.{side}_canonical_revision": workload.canonical_revision,
            f"istio.{side}_app": workload.canonical_name,
            f"istio.{side}_app_version": workload.canonical_revision,
            f"istio.{side}_instance_name": workload.name,
        }
    return {name: value for name, value in found.items() if value}
