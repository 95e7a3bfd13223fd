"""Envoy's access log formats: text and labels with ``%OPERATORS%``, filled in from a record."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from waypoint.core.cel_expression import value_of
from waypoint.core.codec import Codec
from waypoint.core.grpc import GrpcStatus
from waypoint.core.message import Headers
from waypoint.core.objects import UnusableError
from waypoint.core.record import Record
from waypoint.core.response_flags import long_form

DEFAULT_TEXT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" '
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% '
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
"""Istio's default."""
DEFAULT_LABELS: Final = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
MAX_FORMAT: Final = 64 * 1024
Value = str | int | None
Read = Callable[[Record], Value]
_OPERATOR: Final = re.compile(r"%(?:([A-Z0-9_]+)(?:\((.{0,4096}?)\))?(?::(\d+))?)?%")


def text_format(text: str, field: str) -> Callable[[Record], str]:
    """A line for each record; what has no value reads ``-``. Raises UnusableError."""
    parts = _parts(text, field)

    def write(record: Record) -> str:
        out = []
        for part in parts:
            value = part if isinstance(part, str) else part(record)
            out.append("-" if value is None else str(value))
        return "".join(out)

    return write


def label_format(
    labels: Mapping[str, Any], field: str, *, omit_empty: bool = False
) -> Callable[[Record], dict[str, Any]]:
    """An object for each record: numbers stay numbers, what has no value is null."""
    fields = {name: _label(value, f"{field}[{name}]", omit_empty) for name, value in labels.items()}

    def write(record: Record) -> dict[str, Any]:
        found = {name: read(record) for name, read in fields.items()}
        return {k: v for k, v in found.items() if v is not None} if omit_empty else found

    return write


def _label(value: Any, field: str, omit_empty: bool) -> Callable[[Record], Any]:
    if isinstance(value, Mapping):
        return label_format(value, field, omit_empty=omit_empty)
    if isinstance(value, list):
        items = [_label(one, field, omit_empty) for one in value]
        return lambda record: [read(record) for read in items]
    if not isinstance(value, str):
        return lambda record: value
    parts = _parts(value, field)
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return text_format(value, field)


def _parts(text: str, field: str) -> list[str | Read]:
    if len(text) > MAX_FORMAT:
        raise UnusableError(field, "the format is too long")
    found: list[str | Read] = []
    end = 0
    for match in _OPERATOR.finditer(text):
        if match.start() > end:
            found.append(_literal(text[end : match.start()], field))
        end = match.end()
        if match[1] is None:
            found.append("%")
            continue
        found.append(_operator(match[1], match[2] or "", match[3], field))
    if end < len(text):
        found.append(_literal(text[end:], field))
    return found


def _literal(text: str, field: str) -> str:
    if "%" in text:
        raise UnusableError(field, f"{text!r} has a % that belongs to no operator")
    return text


def _operator(name: str, argument: str, length: str | None, field: str) -> Read:
    read = _of_argument(name, argument) or _PLAIN.get(name)
    if read is None and name in _NOT_HERE:
        return _nothing
    if read is None:
        raise UnusableError(field, f"%{name}% is not supported")
    if length is None:
        return read
    most, whole = int(length), read
    return lambda record: value[:most] if isinstance(value := whole(record), str) else value


def _of_argument(name: str, argument: str) -> Read | None:
    make = _WITH_ARGUMENT.get(name)
    return None if make is None else make(argument)


def _path(argument: str) -> Read:
    """With or without the query, then which of the two paths (Envoy)."""
    kind, _, which = argument.partition(":")
    names = {"ORIG": _ORIGINAL, "PATH": ":path"}.get(which, f"{_ORIGINAL}?:path")
    read = _header(names, request_field)
    return _without_query(read) if kind == "NQ" else read


def _any_metadata(argument: str) -> Read | None:
    kind, _, path = argument.partition(":")
    return _dynamic(path) if kind == "DYNAMIC" else None


def _dynamic(argument: str) -> Read:
    path = argument.split(":")
    return lambda record: _metadata(record, path)


def _header(argument: str, read: Callable[[Record, str], Value]) -> Read:
    names = [name.lower() for name in argument.split("?")]

    def find(record: Record) -> Value:
        for name in names:
            value = read(record, name)
            if value not in (None, ""):
                return value
        return None

    return find


def _without_query(read: Read) -> Read:
    return lambda record: (
        value.partition("?")[0] if isinstance(value := read(record), str) else value
    )


def _query_value(path: str, name: str) -> str | None:
    for pair in path.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return unquote(value)
    return None


def _response_field(record: Record, name: str) -> str | None:
    if name == ":status":
        return str(record.status) if record.status else None
    return _get(record.response_headers, name)


def _get(headers: Headers | None, name: str) -> str | None:
    return headers.get(name) if headers is not None else None


def request_field(record: Record, name: str) -> str | None:
    """A header of the request, or a pseudo-header."""
    match name:
        case ":method":
            return record.method
        case ":path":
            return record.new_path or record.path
        case ":authority" | "host":
            return record.authority
        case ":scheme":
            return "http" if record.method else None
        case "x-request-id":
            return record.request_id
        case _:
            return _get(record.request_headers, name)


def _metadata(record: Record, path: list[str]) -> Value:
    found: Any = record.metadata.get(path[0], {})
    for name in path[1:]:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str | int) else None if found is None else str(found)


def start_time(at_s: float, form: str) -> str:
    """When a request began; Envoy's default form unless ``form`` is one of strftime."""
    at = datetime.fromtimestamp(at_s, UTC)
    if not form:
        return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
    text = re.sub(r"%([1-9]?)f", lambda m: f"{at.microsecond:06d}"[: int(m[1] or 6)], form)
    return at.strftime(text.replace("%s", str(int(at_s))))


def _grpc_name(record: Record) -> Value:
    number = record.grpc_number
    if number is None:
        return None
    try:
        return GrpcStatus(number).name.title().replace("_", "")
    except ValueError:
        return str(number)


def _grpc_snake(record: Record) -> Value:
    number = record.grpc_number
    return None if number is None else _GRPC_NAMES.get(number, number)


_GRPC_NAMES: Final = {int(one): one.name for one in GrpcStatus}


def _upstream_protocol(record: Record) -> Value:
    upstream = record.decided.upstream if record.decided is not None else None
    if upstream is None or record.target is None or not record.method:
        return None
    return _PROTOCOLS[upstream.codec(record.protocol.removeprefix("HTTP/"))]


_PROTOCOLS: Final = {Codec.HTTP1: "HTTP/1.1", Codec.HTTP2: "HTTP/2"}


def _without_port(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _cluster(record: Record) -> Value:
    decided = record.decided
    return decided.upstream.cluster if decided is not None and decided.upstream else None


def _upstream_host(record: Record) -> Value:
    if record.target is None:
        return None
    prefix = "envoy://connect_originate/" if record.target.hbone else ""
    return f"{prefix}{record.target.address}"


def _route(record: Record) -> Value:
    route = record.decided.route if record.decided is not None else None
    return (route.name or None) if route is not None else None


def _nothing(_: Record) -> None:
    """What a waypoint does not have, as Envoy says what it does not know."""


def _upstream_ip(record: Record) -> Value:
    return record.target.address.host if record.target is not None else None


def _after_head_ms(record: Record) -> Value:
    """From the head of the response to its end."""
    if record.upstream_ms is None:
        return None
    return max(0, round(record.duration_ms) - record.upstream_ms)


_PLAIN: Final[Mapping[str, Read]] = {
    "PROTOCOL": lambda record: record.protocol if record.method else None,
    "RESPONSE_CODE": lambda record: record.status,
    "RESPONSE_FLAGS": lambda record: record.flag,
    "RESPONSE_FLAGS_LONG": lambda record: long_form(record.flag),
    "RESPONSE_CODE_DETAILS": lambda record: record.details or None,
    "CONNECTION_TERMINATION_DETAILS": lambda record: (
        record.details if not record.method and record.details.startswith("rbac") else None
    ),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": lambda record: record.cause or None,
    "BYTES_RECEIVED": lambda record: record.received,
    "BYTES_SENT": lambda record: record.sent,
    "DURATION": lambda record: round(record.duration_ms),
    "RESPONSE_DURATION": lambda record: record.upstream_ms,
    "UPSTREAM_HOST": _upstream_host,
    "UPSTREAM_REMOTE_ADDRESS": _upstream_host,
    "UPSTREAM_CLUSTER": _cluster,
    "UPSTREAM_CLUSTER_RAW": _cluster,
    "UPSTREAM_LOCAL_ADDRESS": lambda record: (
        "envoy://internal_client_address/" if record.target and record.target.hbone else None
    ),
    "DOWNSTREAM_LOCAL_ADDRESS": lambda record: str(record.to.address),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": lambda record: record.to.address.host,
    "DOWNSTREAM_LOCAL_PORT": lambda record: record.to.address.port,
    "DOWNSTREAM_REMOTE_ADDRESS": lambda record: record.remote_address,
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: _without_port(record.remote_address),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": lambda record: record.direct_address,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: str(record.peer.ip),
    "DOWNSTREAM_PEER_URI_SAN": lambda record: str(record.peer.identity or "") or None,
    "REQUESTED_SERVER_NAME": lambda record: record.sni or None,
    "ROUTE_NAME": _route,
    "GRPC_STATUS_NUMBER": lambda record: record.grpc_number,
    "TRACE_ID": lambda record: record.trace_id or None,
    "LOCAL_REPLY_BODY": lambda _: "",
    "UPSTREAM_PROTOCOL": _upstream_protocol,
    "SPAN_ID": lambda record: record.trace.span_id if record.trace is not None else None,
    "STREAM_ID": lambda record: record.request_id or None,
    "HOSTNAME": lambda _: os.uname().nodename,
    "RESPONSE_TX_DURATION": _after_head_ms,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda record: record.attempts,
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _upstream_ip,
    "UPSTREAM_REMOTE_PORT": lambda record: record.target.address.port if record.target else None,
    "DOWNSTREAM_REMOTE_PORT": lambda record: int(record.remote_address.rpartition(":")[2]),
    "DOWNSTREAM_DIRECT_REMOTE_PORT": lambda record: record.peer.port,
}
_GRPC_FORMS: Final[Mapping[str, Read]] = {
    "": _grpc_name,
    "CAMEL_STRING": _grpc_name,
    "SNAKE_STRING": _grpc_snake,
    "NUMBER": lambda record: record.grpc_number,
}
_WITH_ARGUMENT: Final[Mapping[str, Callable[[str], Read | None]]] = {
    "REQ": lambda names: _header(names, request_field),
    "RESP": lambda names: _header(names, _response_field),
    "TRAILER": lambda names: _header(
        names, lambda record, name: _get(record.response_trailers, name)
    ),
    "REQ_WITHOUT_QUERY": lambda names: _without_query(_header(names, request_field)),
    "PATH": _path,
    "CEL": lambda text: value_of(text, "%CEL%"),
    "QUERY_PARAM": lambda name: lambda record: _query_value(record.path, name),
    "QUERY_PARAMS": lambda _: lambda record: record.path.partition("?")[2] or None,
    "ENVIRONMENT": lambda name: lambda _: os.environ.get(name, "-"),
    "METADATA": _any_metadata,
    "DYNAMIC_METADATA": _dynamic,
    "GRPC_STATUS": lambda form: _GRPC_FORMS.get(form),
    "START_TIME": lambda form: lambda record: start_time(record.begun_s, form),
}
_ORIGINAL: Final = "x-envoy-original-path"
_NOT_HERE: Final = frozenset(
    [
        "COMMON_DURATION",
        "CONNECTION_ID",
        "CUSTOM_FLAGS",
        "CLUSTER_METADATA",
        "DOWNSTREAM_DETECTED_CLOSE_TYPE",
        "DOWNSTREAM_HANDSHAKE_DURATION",
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        "DOWNSTREAM_HEADER_BYTES_SENT",
        "DOWNSTREAM_LOCAL_CLOSE_REASON",
        "DOWNSTREAM_LOCAL_DNS_SAN",
        "DOWNSTREAM_LOCAL_SUBJECT",
        "DOWNSTREAM_LOCAL_URI_SAN",
        "DOWNSTREAM_PEER_CERT",
        "DOWNSTREAM_PEER_CERT_V_END",
        "DOWNSTREAM_PEER_CERT_V_START",
        "DOWNSTREAM_PEER_DNS_SAN",
        "DOWNSTREAM_PEER_FINGERPRINT_1",
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        "DOWNSTREAM_PEER_IP_SAN",
        "DOWNSTREAM_PEER_ISSUER",
        "DOWNSTREAM_PEER_SERIAL",
        "DOWNSTREAM_PEER_SUBJECT",
        "DOWNSTREAM_TLS_CIPHER",
        "DOWNSTREAM_TLS_SESSION_ID",
        "DOWNSTREAM_TLS_VERSION",
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        "DOWNSTREAM_WIRE_BYTES_SENT",
        "FILTER_CHAIN_NAME",
        "FILTER_STATE",
        "LISTENER_METADATA",
        "METADATA",
        "REQUEST_DURATION",
        "REQUEST_TX_DURATION",
        "ROUTE_METADATA",
        "ROUNDTRIP_DURATION",
        "TLS_JA3_FINGERPRINT",
        "TLS_JA4_FINGERPRINT",
        "UNIQUE_ID",
        "UPSTREAM_CLUSTER_METADATA",
        "UPSTREAM_CONNECTION_ID",
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        "UPSTREAM_DETECTED_CLOSE_TYPE",
        "UPSTREAM_FILTER_STATE",
        "UPSTREAM_HEADER_BYTES_RECEIVED",
        "UPSTREAM_HEADER_BYTES_SENT",
        "UPSTREAM_HOST_NAME",
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        "UPSTREAM_HOSTS_ATTEMPTED",
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_LOCAL_CLOSE_REASON",
        "UPSTREAM_LOCAL_PORT",
        "UPSTREAM_METADATA",
        "UPSTREAM_PEER_CERT",
        "UPSTREAM_PEER_ISSUER",
        "UPSTREAM_PEER_SUBJECT",
        "UPSTREAM_PEER_URI_SAN",
        "UPSTREAM_TLS_CIPHER",
        "UPSTREAM_TLS_SESSION_ID",
        "UPSTREAM_TLS_VERSION",
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        "UPSTREAM_WIRE_BYTES_SENT",
        "VIRTUAL_CLUSTER_NAME",
    ]
)
"""Operators of Envoy 1.3x without a value here: a format with them is no mistake."""
