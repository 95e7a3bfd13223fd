"""Access logs as collectors take them: OTLP's logs, and Envoy's access log service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from envoy.config.core.v3 import address_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from ambient.api.address import HostPort, parse_ip
from ambient.api.pb import otlp_pb2
from waypoint.core.log_format import DEFAULT_TEXT, text_format
from waypoint.core.message import Headers
from waypoint.core.providers import LogProtocol, LogService
from waypoint.core.record import NO_FLAG, Record
from waypoint.core.response_flags import LONG
from waypoint.core.span import Reporter

OTLP: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
ENVOY: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_FLAGS: Final = {
    flag: field
    for flag, name in LONG.items()
    if (field := re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields_by_name
}
"""Fields of Envoy's message that say no more than that."""
_VERSIONS: Final = {
    "HTTP/1.1": accesslog_pb2.HTTPAccessLogEntry.HTTP11,
    "HTTP/2": accesslog_pb2.HTTPAccessLogEntry.HTTP2,
}
_METHODS: Final = {
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
}  # fmt: skip


class LogEntry(msgspec.Struct, frozen=True):
    """One exchange or connection, serialised: an OTLP record or an entry of Envoy's service."""

    wire: bytes
    http: bool


Form = Callable[[Record], LogEntry | None]


def form_of(service: LogService) -> Form:
    """What a collector is told of a record; None where it is not for this collector.

    Raises UnusableError where the format cannot be understood.
    """
    match service.protocol:
        case LogProtocol.OTLP:
            return _otlp_form(service)
        case LogProtocol.HTTP:
            return lambda record: _http_entry(record, service) if record.method else None
        case _:
            return lambda record: None if record.method else _tcp_entry(record)


def message(
    entries: Iterable[LogEntry], service: LogService, reporter: Reporter
) -> tuple[str, bytes]:
    """The gRPC method, and the message that takes the entries there."""
    if service.protocol is LogProtocol.OTLP:
        return OTLP, _otlp(entries, service, reporter)
    made = als_pb2.StreamAccessLogsMessage()
    made.identifier.log_name = service.log_name
    made.identifier.node.id = reporter.node
    made.identifier.node.cluster = reporter.service
    for entry in entries:
        if entry.http:
            made.http_logs.log_entry.add().MergeFromString(entry.wire)
        else:
            made.tcp_logs.log_entry.add().MergeFromString(entry.wire)
    return ENVOY, made.SerializeToString()


def refused(answer: bytes, service: LogService) -> tuple[int, str]:
    """How many records a collector did not take although it answered OK, and why."""
    if service.protocol is not LogProtocol.OTLP:
        return 0, ""
    try:
        partial = otlp_pb2.ExportLogsServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return 0, ""
    return max(0, partial.rejected_log_records), partial.error_message


def _otlp_form(service: LogService) -> Form:
    """The text is the body, labels are attributes (as Istio configures Envoy)."""
    field = f"extensionProviders[{service.name}].envoyOtelAls.logFormat"
    body = text_format(service.text or DEFAULT_TEXT, f"{field}.text")
    labels = [(name, text_format(text, f"{field}.labels[{name}]")) for name, text in service.labels]

    def form(record: Record) -> LogEntry:
        begun_ns = int(record.begun_s * 1e9)
        made = otlp_pb2.LogRecord(
            time_unix_nano=begun_ns,
            observed_time_unix_nano=begun_ns + int(record.duration_ms * 1e6),
            body=otlp_pb2.AnyValue(string_value=body(record)),
            attributes=[_attribute(name, read(record)) for name, read in labels],
        )
        if record.trace is not None:
            made.trace_id = bytes.fromhex(record.trace.trace_id)
            made.span_id = bytes.fromhex(record.trace.span_id)
        return LogEntry(made.SerializeToString(), http=bool(record.method))

    return form


def _otlp(entries: Iterable[LogEntry], service: LogService, reporter: Reporter) -> bytes:
    made = otlp_pb2.ExportLogsServiceRequest()
    logs = made.resource_logs.add()
    logs.resource.attributes.append(_attribute("service.name", reporter.service))
    logs.resource.attributes.append(_attribute("log_name", service.log_name))
    scope = logs.scope_logs.add()
    for entry in entries:
        scope.log_records.add().MergeFromString(entry.wire)
    return bytes(made.SerializeToString())


def _attribute(name: str, value: str) -> otlp_pb2.KeyValue:
    return otlp_pb2.KeyValue(key=name, value=otlp_pb2.AnyValue(string_value=value))


def _http_entry(record: Record, service: LogService) -> LogEntry:
    made = accesslog_pb2.HTTPAccessLogEntry()
    _set_common(made.common_properties, record)
    made.protocol_version = _VERSIONS.get(
        record.protocol, accesslog_pb2.HTTPAccessLogEntry.PROTOCOL_UNSPECIFIED
    )
    asked, answered = made.request, made.response
    if record.method in _METHODS:
        asked.request_method = record.method
    asked.scheme, asked.authority, asked.path = "http", record.authority, record.path
    asked.user_agent, asked.request_id = record.user_agent, record.request_id
    asked.forwarded_for = record.forwarded_for
    asked.request_body_bytes = record.received
    if record.request_headers is not None:
        asked.referer = record.request_headers.get("referer") or ""
        asked.original_path = record.request_headers.get("x-envoy-original-path") or ""
    answered.response_code.value = record.status
    answered.response_body_bytes = record.sent
    answered.response_code_details = record.details
    _copy(record.request_headers, service.request_headers, asked.request_headers)
    _copy(record.response_headers, service.response_headers, answered.response_headers)
    _copy(record.response_trailers, service.response_trailers, answered.response_trailers)
    return LogEntry(made.SerializeToString(), http=True)


def _tcp_entry(record: Record) -> LogEntry:
    made = accesslog_pb2.TCPAccessLogEntry()
    _set_common(made.common_properties, record)
    made.connection_properties.received_bytes = record.received
    made.connection_properties.sent_bytes = record.sent
    return LogEntry(made.SerializeToString(), http=False)


def _copy(headers: Headers | None, names: Iterable[str], into: Any) -> None:
    for name in names if headers is not None else ():
        value = headers.get(name) if headers is not None else None
        if value is not None:
            into[name] = value


def _set_common(common: accesslog_pb2.AccessLogCommon, record: Record) -> None:
    common.sample_rate = 1.0
    common.start_time.FromNanoseconds(int(record.begun_s * 1e9))
    common.duration.FromNanoseconds(int(record.duration_ms * 1e6))
    direct = HostPort(str(record.peer.ip), record.peer.port)
    said = parse_ip(record.forwarded_for.rpartition(",")[2].strip())
    _address(common.downstream_direct_remote_address, direct)
    _address(common.downstream_remote_address, HostPort(str(said), 0) if said else direct)
    _address(common.downstream_local_address, record.to.address)
    if record.target is not None:
        _address(common.upstream_remote_address, record.target.address)
    decided = record.decided
    if decided is not None:
        common.upstream_cluster = decided.upstream.cluster if decided.upstream is not None else ""
        common.route_name = decided.route.name if decided.route is not None else ""
    common.upstream_transport_failure_reason = record.cause
    common.stream_id = record.request_id
    if record.sni:
        common.tls_properties.tls_sni_hostname = record.sni
    if record.peer.identity is not None:
        san = common.tls_properties.peer_certificate_properties.subject_alt_name.add()
        san.uri = str(record.peer.identity)
    if record.flag != NO_FLAG:
        _set_flags(common.response_flags, record.flag)


def _set_flags(flags: accesslog_pb2.ResponseFlags, said: str) -> None:
    reasons = accesslog_pb2.ResponseFlags.Unauthorized
    for flag in said.split(","):
        if flag == "UAEX":
            flags.unauthorized_details.reason = reasons.EXTERNAL_SERVICE
        elif flag in _FLAGS:
            setattr(flags, _FLAGS[flag], True)


def _address(into: address_pb2.Address, at: HostPort) -> None:
    into.socket_address.address = at.host
    into.socket_address.port_value = at.port
