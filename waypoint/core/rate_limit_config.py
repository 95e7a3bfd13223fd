"""Envoy's configuration of rate limits, as EnvoyFilter carries it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from waypoint.core import claims
from waypoint.core.message import Request
from waypoint.core.objects import (
    Json,
    UnusableError,
    duration_s,
    integer,
    mapping,
    sequence,
    string,
)
from waypoint.core.predicate import regex_test
from waypoint.core.providers import Address
from waypoint.core.rate_limit import Action, Bucket, Descriptor, Entry, GlobalLimit, LocalLimit

LEAST_INTERVAL_S: Final = 0.05
_CLUSTER: Final = re.compile(r"(?:outbound|inbound-vip)\|(\d+)\|[^|]*\|(.+)")


def read_local(value: Json, name: str, field: str) -> LocalLimit:
    """A ``LocalRateLimit``. Raises UnusableError."""
    raw_bucket = field_of(value, "token_bucket")
    status = (
        integer(mapping(field_of(value, "status"), f"{field}.status").get("code"), field) or 429
    )
    return LocalLimit(
        name=name,
        bucket=read_bucket(raw_bucket, f"{field}.token_bucket") if raw_bucket else None,
        enabled=_share(field_of(value, "filter_enabled"), f"{field}.filter_enabled"),
        enforced=_share(field_of(value, "filter_enforced"), f"{field}.filter_enforced"),
        descriptors=tuple(
            _descriptor(mapping(one, field), f"{field}.descriptors[{index}]")
            for index, one in enumerate(sequence(field_of(value, "descriptors"), field))
        ),
        actions=read_rate_limits(field_of(value, "rate_limits"), f"{field}.rate_limits"),
        status=status if status >= 400 else 429,
        headers=tuple(_headers(field_of(value, "response_headers_to_add"), field)),
        tell=field_of(value, "enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        silent=field_of(value, "disable_x_envoy_ratelimited_header") is True,
        exhausted=field_of(value, "rate_limited_as_resource_exhausted") is True,
        always_default=field_of(value, "always_consume_default_token_bucket") is not False,
    )


def read_bucket(raw: Any, field: str) -> Bucket:
    """A ``TokenBucket``; interval 50 ms at least."""
    value = mapping(raw, field)
    most = integer(field_of(value, "max_tokens"), f"{field}.max_tokens")
    fill = field_of(value, "tokens_per_fill")
    tokens = integer(
        mapping(fill, field).get("value") if isinstance(fill, Mapping) else fill, field
    )
    interval_s = duration_s(field_of(value, "fill_interval"), f"{field}.fill_interval")
    if not most or interval_s is None or interval_s < LEAST_INTERVAL_S:
        raise UnusableError(field, "needs max_tokens, and a fill_interval of 50ms at least")
    return Bucket(most, tokens or 1, interval_s)


def read_rate_limits(raw: Any, field: str) -> tuple[tuple[Action, ...], ...]:
    """``rate_limits`` of a route, a virtual host or a filter."""
    found: list[tuple[Action, ...]] = []
    for index, one in enumerate(sequence(raw, field)):
        where = f"{field}[{index}]"
        actions = sequence(mapping(one, where).get("actions"), f"{where}.actions")
        found.append(tuple(_action(mapping(a, where), where) for a in actions))
    return tuple(found)


def read_global(value: Json, field: str) -> GlobalLimit:
    """A ``RateLimit`` filter. Raises UnusableError."""
    service = mapping(field_of(value, "rate_limit_service"), f"{field}.rate_limit_service")
    grpc = mapping(field_of(service, "grpc_service"), f"{field}.rate_limit_service.grpc_service")
    envoy = mapping(field_of(grpc, "envoy_grpc"), f"{field}.rate_limit_service.grpc_service")
    named = string(field_of(envoy, "cluster_name"), field)
    cluster = _CLUSTER.fullmatch(named)
    domain = string(value.get("domain"), f"{field}.domain")
    if cluster is None or not domain:
        text = f"needs a domain and a cluster such as outbound|8081||host, not {named!r}"
        raise UnusableError(field, text)
    limited = mapping(field_of(value, "rate_limited_status"), field)
    failing = mapping(field_of(value, "status_on_error"), field)
    return GlobalLimit(
        domain=domain,
        at=Address(cluster[2], int(cluster[1])),
        timeout_s=duration_s(value.get("timeout"), f"{field}.timeout") or 0.02,
        deny_on_error=field_of(value, "failure_mode_deny") is True,
        status_on_error=integer(failing.get("code"), field) or 500,
        status=max(integer(limited.get("code"), field), 400) if limited else 429,
        tell=field_of(value, "enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        silent=field_of(value, "disable_x_envoy_ratelimited_header") is True,
        exhausted=field_of(value, "rate_limited_as_resource_exhausted") is True,
    )


def _descriptor(value: Json, field: str) -> tuple[Descriptor, Bucket]:
    entries = tuple(
        (string(one.get("key"), field), string(one.get("value"), field))
        for one in (mapping(raw, field) for raw in sequence(value.get("entries"), field))
    )
    if not entries:
        raise UnusableError(f"{field}.entries", "required")
    return entries, read_bucket(field_of(value, "token_bucket"), f"{field}.token_bucket")


def _share(raw: Any, field: str) -> float:
    """A ``RuntimeFractionalPercent`` as 0 to 1; absent means never."""
    if raw is None:
        return 0.0
    default = mapping(field_of(mapping(raw, field), "default_value"), field)
    base = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
    return integer(default.get("numerator"), field) / base[default.get("denominator") or "HUNDRED"]


def _headers(raw: Any, field: str) -> list[Entry]:
    found = []
    for one in sequence(raw, field):
        header = mapping(mapping(one, field).get("header"), field)
        found.append((string(header.get("key"), field).lower(), string(header.get("value"), field)))
    return found


def _action(action: Json, field: str) -> Action:
    kind = next(iter(action), "")
    spec = mapping(action.get(kind), f"{field}.{kind}")
    key = string(field_of(spec, "descriptor_key"), field)
    value = string(field_of(spec, "descriptor_value"), field)
    match kind:
        case "generic_key" | "genericKey":
            return lambda request, cluster: (key or "generic_key", value)
        case "remote_address" | "remoteAddress":
            return lambda request, cluster: ("remote_address", str(request.remote_ip))
        case "destination_cluster" | "destinationCluster":
            return lambda request, cluster: ("destination_cluster", cluster)
        case "source_cluster" | "sourceCluster":
            return lambda request, cluster: ("source_cluster", _source(request))
        case "request_headers" | "requestHeaders":
            return _header_action(spec, key, field)
        case "query_parameters" | "queryParameters":
            return _query_action(spec, key, field)
        case "header_value_match" | "headerValueMatch":
            return _match_action(spec, key or "header_match", value, field)
        case "metadata" | "dynamic_metadata" | "dynamicMetadata":
            return _metadata_action(spec, key, field)
        case _:
            raise UnusableError(f"{field}.{kind}", "this action is not supported")


def _source(request: Request) -> str:
    identity = request.peer.identity
    return f"{identity.service_account}.{identity.namespace}" if identity is not None else ""


def _header_action(spec: Json, key: str, field: str) -> Action:
    name = string(field_of(spec, "header_name"), field).lower()
    skip = field_of(spec, "skip_if_absent") is True
    if not name or not key:
        raise UnusableError(field, "request_headers needs header_name and descriptor_key")

    def find(request: Request, cluster: str) -> Entry | None:
        value = header_value(request, name)
        return (key, value) if value else (("", "") if skip and value is None else None)

    return find


def header_value(request: Request, name: str) -> str | None:
    """A header field, or a pseudo-header."""
    match name:
        case ":path":
            return request.target
        case ":method":
            return request.method
        case ":authority" | "host":
            return request.authority
        case ":scheme":
            return request.scheme
        case _:
            return request.headers.get(name)


def _query_action(spec: Json, key: str, field: str) -> Action:
    name = string(field_of(spec, "query_parameter_name"), field)
    if not name or not key:
        raise UnusableError(field, "query_parameters needs its name and descriptor_key")

    def find(request: Request, cluster: str) -> Entry | None:
        value = request.query_value(name)
        return (key, value) if value else None

    return find


def _match_action(spec: Json, key: str, value: str, field: str) -> Action:
    tests = [
        _header_match(mapping(one, field), field) for one in sequence(spec.get("headers"), field)
    ]
    expected = field_of(spec, "expect_match") is not False

    def find(request: Request, cluster: str) -> Entry | None:
        return (key, value) if all(test(request) for test in tests) is expected else None

    return find


def _header_match(spec: Json, field: str) -> Callable[[Request], bool]:
    name = string(spec.get("name"), field).lower()
    text = mapping(field_of(spec, "string_match"), field)
    inverted = field_of(spec, "invert_match") is True
    exact, prefix, suffix = (
        text.get(kind) or field_of(spec, f"{kind}_match") for kind in ("exact", "prefix", "suffix")
    )
    regex = mapping(field_of(text, "safe_regex") or field_of(spec, "safe_regex_match"), field).get(
        "regex"
    )
    pattern = regex_test(string(regex, field), field) if regex else None

    def passes(value: str | None) -> bool:
        if value is None:
            return False
        if pattern is not None:
            return pattern(value)
        if exact is not None:
            return bool(value == exact)
        return value.startswith(str(prefix or "")) and value.endswith(str(suffix or ""))

    return lambda request: passes(header_value(request, name)) is not inverted


def _metadata_action(spec: Json, key: str, field: str) -> Action:
    source = mapping(field_of(spec, "metadata_key"), field)
    name = string(source.get("key"), field)
    path = tuple(
        string(mapping(one, field).get("key"), field) for one in sequence(source.get("path"), field)
    )
    default = string(field_of(spec, "default_value"), field)

    def find(request: Request, cluster: str) -> Entry | None:
        noted: Any = request.metadata.get(name)
        if name == "envoy.filters.http.jwt_authn" and request.claims is not None:
            noted = {"payload": request.claims}
        value = claims.at(noted, path)
        text = value if isinstance(value, str) and value else default
        return (key, text) if text else None

    return find


def field_of(value: Json, name: str) -> Any:
    """A field of protobuf's JSON: in either spelling."""
    first, *rest = name.split("_")
    camel = first + "".join(word.title() for word in rest)
    return value[name] if name in value else value.get(camel)
