"""``extensionProviders`` of the mesh configuration: services that a waypoint asks or tells."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from waypoint.core.objects import (
    Json,
    UnusableError,
    duration_s,
    integer,
    mapping,
    sequence,
    string,
    strings,
)

ASK_TIMEOUT_S: Final = 600.0
"""Of external authorization (Istio)."""
EXPORT_TIMEOUT_S: Final = 10.0
MAX_TAG_LENGTH: Final = 256
_STATUS: Final = range(200, 600)


class Address(msgspec.Struct, frozen=True):
    """A service: ``host``, or ``namespace/host`` where several have that name."""

    host: str
    port: int
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class BodyInCheck(msgspec.Struct, frozen=True):
    """How much of a request's body a check carries; ``partial``: longer bodies are cut."""

    max_bytes: int
    partial: bool = False
    as_bytes: bool = False


class ExtAuthz(msgspec.Struct, frozen=True, kw_only=True):
    """``envoyExtAuthzHttp`` or (``grpc``) ``envoyExtAuthzGrpc``; header names are patterns."""

    name: str
    at: Address
    grpc: bool
    timeout_s: float = ASK_TIMEOUT_S
    fail_open: bool = False
    status_on_error: int = 403
    body: BodyInCheck | None = None
    path_prefix: str = ""
    include_headers: tuple[str, ...] = ()
    additional_headers: tuple[tuple[str, str], ...] = ()
    upstream_on_allow: tuple[str, ...] = ()
    downstream_on_allow: tuple[str, ...] = ()
    downstream_on_deny: tuple[str, ...] = ()
    told_headers: tuple[str, ...] = ()
    """By gRPC: the only headers that are told; empty for all."""


class Tracer(msgspec.Struct, frozen=True, kw_only=True):
    """``opentelemetry`` or (``zipkin``) ``zipkin``. ``path`` is set where OTLP goes over HTTP."""

    name: str
    at: Address
    zipkin: bool = False
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = EXPORT_TIMEOUT_S
    max_tag_length: int = MAX_TAG_LENGTH
    w3c: bool = True
    """Whether contexts are written as W3C; ``b3``: (also) as B3."""
    b3: bool = False


class LogSink(msgspec.Struct, frozen=True, kw_only=True):
    """``envoyFileAccessLog``. Formats as Envoy writes them; neither means Istio's own."""

    name: str
    path: str = "/dev/stdout"
    text: str | None = None
    labels: Mapping[str, Any] | None = None
    omit_empty: bool = False


class LogProtocol(Enum):
    """How access logs are sent to a service."""

    OTLP = "envoyOtelAls"
    HTTP = "envoyHttpAls"
    """Envoy's access log service, for requests; ``TCP``: for raw connections."""
    TCP = "envoyTcpAls"


LOG_NAMES: Final = {
    LogProtocol.OTLP: "otel_envoy_accesslog",
    LogProtocol.HTTP: "http_envoy_accesslog",
    LogProtocol.TCP: "tcp_envoy_accesslog",
}
"""What Istio calls the logs that have no ``logName``."""


class LogService(msgspec.Struct, frozen=True, kw_only=True):
    """A collector of access logs. ``text`` and ``labels`` are OTLP's body and attributes."""

    name: str
    at: Address
    protocol: LogProtocol
    log_name: str
    text: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    request_headers: tuple[str, ...] = ()
    """Headers that the access log service gets beside the usual ones."""
    response_headers: tuple[str, ...] = ()
    response_trailers: tuple[str, ...] = ()


class Prometheus(msgspec.Struct, frozen=True):
    """Metrics to be scraped."""

    name: str


Provider = ExtAuthz | Tracer | LogSink | LogService | Prometheus
KINDS: Final = (
    "envoyExtAuthzHttp", "envoyExtAuthzGrpc", "opentelemetry", "zipkin", "envoyFileAccessLog",
    "envoyOtelAls", "envoyHttpAls", "envoyTcpAls", "prometheus",
)  # fmt: skip


def read_provider(raw: Any, field: str) -> Provider:
    """One entry. Raises UnusableError."""
    entry = mapping(raw, field)
    name = string(entry.get("name"), f"{field}.name")
    kind = next((key for key in entry if key != "name"), "")
    where = f"{field}.{kind}"
    if not name:
        raise UnusableError(f"{field}.name", "required")
    spec = mapping(entry.get(kind), where)
    match kind:
        case "envoyExtAuthzHttp" | "envoyExtAuthzGrpc":
            return _ext_authz(name, spec, where, grpc=kind == "envoyExtAuthzGrpc")
        case "opentelemetry":
            return _opentelemetry(name, spec, where)
        case "zipkin":
            both = spec.get("traceContextOption") == "USE_B3_WITH_W3C_PROPAGATION"
            path = string(spec.get("path"), f"{where}.path") or "/api/v2/spans"
            return Tracer(
                name=name,
                at=_address(spec, where),
                zipkin=True,
                path=path,
                max_tag_length=_tag_length(spec, where),
                w3c=both,
                b3=True,
            )
        case "envoyFileAccessLog":
            return _file_log(name, spec, where)
        case "envoyOtelAls" | "envoyHttpAls" | "envoyTcpAls":
            return _log_service(name, spec, where, LogProtocol(kind))
        case "prometheus":
            return Prometheus(name)
        case _:
            raise UnusableError(where, f"is not supported; these are: {', '.join(KINDS)}")


def _address(spec: Json, field: str) -> Address:
    text = string(spec.get("service"), f"{field}.service")
    port = integer(spec.get("port"), f"{field}.port")
    namespace, slash, host = text.partition("/")
    if not slash:
        namespace, host = "", text
    if not host or not 0 < port <= 65535:
        raise UnusableError(field, "needs service (host or namespace/host) and port")
    return Address(host, port, namespace)


def _ext_authz(name: str, spec: Json, field: str, *, grpc: bool) -> ExtAuthz:
    status = spec.get("statusOnError", "403")
    if not str(status).isdigit() or int(status) not in _STATUS:
        raise UnusableError(f"{field}.statusOnError", f"{status!r} is no status from 200 to 599")
    allow = _patterns(spec, "headersToDownstreamOnAllow", field)
    prefix = string(spec.get("pathPrefix"), f"{field}.pathPrefix")
    include = _patterns(spec, "includeRequestHeadersInCheck", field)
    return ExtAuthz(
        name=name,
        at=_address(spec, field),
        grpc=grpc,
        timeout_s=duration_s(spec.get("timeout"), f"{field}.timeout") or ASK_TIMEOUT_S,
        fail_open=spec.get("failOpen") is True,
        status_on_error=int(status),
        body=_body(spec.get("includeRequestBodyInCheck"), f"{field}.includeRequestBodyInCheck"),
        path_prefix=prefix,
        include_headers=include + _patterns(spec, "includeHeadersInCheck", field),
        additional_headers=_pairs(spec, "includeAdditionalHeadersInCheck", field),
        upstream_on_allow=_patterns(spec, "headersToUpstreamOnAllow", field),
        downstream_on_allow=allow,
        downstream_on_deny=_patterns(spec, "headersToDownstreamOnDeny", field),
    )


def _body(raw: Any, field: str) -> BodyInCheck | None:
    if raw is None:
        return None
    spec = mapping(raw, field)
    size = integer(spec.get("maxRequestBytes"), f"{field}.maxRequestBytes")
    if not size:
        raise UnusableError(f"{field}.maxRequestBytes", "required")
    partial, as_bytes = (spec.get(key) is True for key in ("allowPartialMessage", "packAsBytes"))
    return BodyInCheck(size, partial, as_bytes)


def _opentelemetry(name: str, spec: Json, field: str) -> Tracer:
    http, grpc = mapping(spec.get("http"), f"{field}.http"), mapping(spec.get("grpc"), field)
    carrier = http or grpc
    timeout_s = duration_s(carrier.get("timeout"), f"{field}.timeout") or EXPORT_TIMEOUT_S
    path = string(http.get("path"), f"{field}.http.path")
    key = "headers" if http else "initialMetadata"
    headers: list[tuple[str, str]] = []
    for index, raw in enumerate(sequence(carrier.get(key), f"{field}.{key}")):
        where = f"{field}.{key}[{index}]"
        entry = mapping(raw, where)
        value = entry.get("value", "")
        headers.append((string(entry.get("name"), where).lower(), string(value, where)))
    return Tracer(
        name=name,
        at=_address(spec, field),
        path=(path or "/v1/traces") if http else "",
        headers=tuple(headers),
        timeout_s=timeout_s,
        max_tag_length=_tag_length(spec, field),
    )


def _tag_length(spec: Json, field: str) -> int:
    return integer(spec.get("maxTagLength"), f"{field}.maxTagLength") or MAX_TAG_LENGTH


def _file_log(name: str, spec: Json, field: str) -> LogSink:
    text, labels = _log_format(spec, field)
    return LogSink(
        name=name,
        path=string(spec.get("path"), f"{field}.path") or "/dev/stdout",
        text=text,
        labels=labels,
        omit_empty=spec.get("omitEmptyValues") is True,
    )


def _log_service(name: str, spec: Json, field: str, protocol: LogProtocol) -> LogService:
    text, labels = _log_format(spec, field) if protocol is LogProtocol.OTLP else (None, None)
    headers, answers, trailers = (
        _patterns(spec, f"additional{part}ToLog", field)
        for part in ("RequestHeaders", "ResponseHeaders", "ResponseTrailers")
    )
    return LogService(
        name=name,
        at=_address(spec, field),
        protocol=protocol,
        log_name=string(spec.get("logName"), f"{field}.logName") or LOG_NAMES[protocol],
        text=text,
        labels=tuple(
            (label, string(value, f"{field}.logFormat.labels[{label}]"))
            for label, value in sorted((labels or {}).items())
        ),
        request_headers=headers,
        response_headers=answers,
        response_trailers=trailers,
    )


def _log_format(spec: Json, field: str) -> tuple[str | None, Mapping[str, Any] | None]:
    form = mapping(spec.get("logFormat"), f"{field}.logFormat")
    text = form.get("text")
    labels = form.get("labels")
    if text is not None:
        text = string(text, f"{field}.logFormat.text")
    return text, mapping(labels, f"{field}.logFormat.labels") if labels is not None else None


def _patterns(spec: Json, key: str, field: str) -> tuple[str, ...]:
    return tuple(one.lower() for one in strings(spec.get(key), f"{field}.{key}"))


def _pairs(spec: Json, key: str, field: str) -> tuple[tuple[str, str], ...]:
    found = mapping(spec.get(key), f"{field}.{key}")
    return tuple((name.lower(), string(value, f"{field}.{key}")) for name, value in found.items())
