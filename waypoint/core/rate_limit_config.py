"""Envoy's configuration of rate limits, as EnvoyFilter carries it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from waypoint.core.header_value import compile_value
from waypoint.core.log_format import text_format
from waypoint.core.message import Request
from waypoint.core.objects import (
    Json,
    UnusableError,
    boolean,
    duration_s,
    field_of,
    integer,
    mapping,
    sequence,
    string,
)
from waypoint.core.providers import Address
from waypoint.core.rate_limit import (
    Beside,
    Descriptor,
    Entry,
    GlobalLimit,
    LocalLimit,
    Override,
    RouteLimit,
    Rule,
)
from waypoint.core.rate_limit_action import compile_action, noted
from waypoint.core.record import Record
from waypoint.core.token_bucket import Bucket

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
        rules=read_rate_limits(field_of(value, "rate_limits"), f"{field}.rate_limits"),
        stage=_stage(value, field),
        vh=read_beside(value, field),
        status=status if status >= 400 else 429,
        headers=_headers(field_of(value, "response_headers_to_add"), field),
        marks=_headers(field_of(value, "request_headers_to_add_when_not_enforced"), field),
        tell=field_of(value, "enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
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


def read_rate_limits(raw: Any, field: str) -> tuple[Rule, ...]:
    """``rate_limits`` of a route, a virtual host or a filter. Raises UnusableError."""
    return tuple(
        _rule(mapping(one, f"{field}[{index}]"), f"{field}[{index}]")
        for index, one in enumerate(sequence(raw, field))
    )


def _rule(value: Json, field: str) -> Rule:
    actions = sequence(value.get("actions"), f"{field}.actions")
    if not actions:
        raise UnusableError(f"{field}.actions", "required")
    hits, at_end = field_of(value, "hits_addend"), field_of(value, "apply_on_stream_done")
    return Rule(
        actions=tuple(compile_action(mapping(one, field), field) for one in actions),
        stage=_stage(value, field),
        hits=None if at_end else _hits(hits, f"{field}.hits_addend"),
        cost=_cost(hits, f"{field}.hits_addend") if at_end else None,
        override=_override(value.get("limit"), f"{field}.limit"),
    )


_NUMBER: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
MOST_HITS: Final = 1_000_000_000
"""Of one request (Envoy)."""


def _hits(raw: Any, field: str) -> Callable[[Request], int | None] | None:
    """``{number: 3}``, or ``{format: "%REQ(x-cost)%"}``, where what is no number makes none."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    if "format" not in spec:
        fixed = _number(spec, field)
        return lambda request: fixed
    template = compile_value(string(spec.get("format"), f"{field}.format"), f"{field}.format")
    if isinstance(template, str):
        text = template
        return lambda request: _hits_of(text)
    return lambda request: _hits_of(template.render(request))


def _number(spec: Json, field: str) -> int:
    number = spec.get("number")
    unwrapped = mapping(number, field).get("value") if isinstance(number, Mapping) else number
    fixed = integer(unwrapped, f"{field}.number", 1)
    if fixed > MOST_HITS:
        raise UnusableError(f"{field}.number", f"{fixed} is more than {MOST_HITS}")
    return fixed


def _hits_of(text: str) -> int | None:
    hits = int(float(text)) if _NUMBER.fullmatch(text) else MOST_HITS + 1
    return hits if hits <= MOST_HITS else None


def _cost(raw: Any, field: str) -> Callable[[Record], int | None]:
    """The same at the end of the exchange: with all that an access log can tell."""
    spec = mapping(raw, field)
    if "format" not in spec:
        fixed = _number(spec, field) if spec else 1
        return lambda record: fixed
    write = text_format(string(spec.get("format"), f"{field}.format"), f"{field}.format")
    return lambda record: _hits_of(write(record))


_UNITS: Final = {"SECOND": 1, "MINUTE": 2, "HOUR": 3, "DAY": 4, "MONTH": 5, "YEAR": 6, "WEEK": 7}


def _override(raw: Any, field: str) -> Callable[[Request], Override | None] | None:
    """``{dynamic_metadata: {metadata_key: …}}``, whose value is ``{requests_per_unit, unit}``."""
    if raw is None:
        return None
    spec = mapping(field_of(mapping(raw, field), "dynamic_metadata"), f"{field}.dynamic_metadata")
    find = noted(field_of(spec, "metadata_key"), f"{field}.dynamic_metadata.metadata_key")

    def read(request: Request) -> Override | None:
        value = find(request)
        if not isinstance(value, Mapping):
            return None
        requests, unit = value.get("requests_per_unit"), _UNITS.get(str(value.get("unit")))
        whole = isinstance(requests, int | float) and 0 <= requests < 1 << 32
        return Override(int(requests), unit) if whole and requests is not None and unit else None

    return read


def _stage(value: Json, field: str) -> int:
    stage = integer(value.get("stage"), f"{field}.stage")
    if stage > 10:
        raise UnusableError(f"{field}.stage", f"{stage} is more than 10")
    return stage


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
    status = integer(limited.get("code"), field) or 429
    failing = mapping(field_of(value, "status_on_error"), field)
    return GlobalLimit(
        domain=domain,
        at=Address(cluster[2], int(cluster[1])),
        timeout_s=duration_s(value.get("timeout"), f"{field}.timeout") or 0.02,
        stage=_stage(value, field),
        enabled=_share(field_of(value, "filter_enabled"), f"{field}.filter_enabled", 1.0),
        enforced=_share(field_of(value, "filter_enforced"), f"{field}.filter_enforced", 1.0),
        deny_on_error=_share(
            field_of(value, "failure_mode_deny_percent"),
            f"{field}.failure_mode_deny_percent",
            boolean(field_of(value, "failure_mode_deny"), f"{field}.failure_mode_deny"),
        ),
        rules=read_rate_limits(field_of(value, "rate_limits"), f"{field}.rate_limits"),
        status_on_error=integer(failing.get("code"), field) or 500,
        status=status if status >= 400 else 429,
        headers=_headers(field_of(value, "response_headers_to_add"), field),
        tell=field_of(value, "enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        silent=field_of(value, "disable_x_envoy_ratelimited_header") is True,
        exhausted=field_of(value, "rate_limited_as_resource_exhausted") is True,
    )


def read_route_limit(value: Json, field: str) -> RouteLimit:
    """A ``RateLimitPerRoute``. Raises UnusableError."""
    return RouteLimit(
        domain=string(value.get("domain"), f"{field}.domain"),
        vh=read_beside(value, field),
        rules=read_rate_limits(field_of(value, "rate_limits"), f"{field}.rate_limits"),
    )


def read_beside(value: Json, field: str) -> Beside:
    """``vh_rate_limits``. Raises UnusableError."""
    name = string(field_of(value, "vh_rate_limits"), f"{field}.vh_rate_limits", "OVERRIDE")
    try:
        return Beside(name)
    except ValueError:
        known = ", ".join(one.value for one in Beside)
        raise UnusableError(f"{field}.vh_rate_limits", f"{name!r} is none of {known}") from None


def _descriptor(value: Json, field: str) -> tuple[Descriptor, Bucket]:
    entries = tuple(
        (string(one.get("key"), field), string(one.get("value"), field))
        for one in (mapping(raw, field) for raw in sequence(value.get("entries"), field))
    )
    if not entries:
        raise UnusableError(f"{field}.entries", "required")
    return entries, read_bucket(field_of(value, "token_bucket"), f"{field}.token_bucket")


def _share(raw: Any, field: str, absent: float = 0.0) -> float:
    """A ``RuntimeFractionalPercent`` as 0 to 1."""
    if raw is None:
        return float(absent)
    default = mapping(field_of(mapping(raw, field), "default_value"), field)
    base = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
    denominator = default.get("denominator") or "HUNDRED"
    if denominator not in base:
        raise UnusableError(f"{field}.denominator", f"{denominator!r} is none of {', '.join(base)}")
    return integer(default.get("numerator"), field) / base[denominator]


def _headers(raw: Any, field: str) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for one in sequence(raw, field):
        header = mapping(mapping(one, field).get("header"), field)
        found.append((string(header.get("key"), field).lower(), string(header.get("value"), field)))
    return tuple(found)
