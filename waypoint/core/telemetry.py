"""Telemetry: what is measured, logged and traced for a destination, from all that is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from ambient.telemetry.core import metric_names as names
from waypoint.core.attachment import TargetRef, holds_for, read_targets
from waypoint.core.cel_expression import filter_of, text_of
from waypoint.core.mesh_settings import MeshSettings
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    mapping,
    sequence,
    string,
)
from waypoint.core.place import Place
from waypoint.core.providers import LogService, LogSink, Tracer
from waypoint.core.record import Record
from waypoint.core.trace_tags import CustomTag, read_tags

SERVER_MODES: Final = ("", "SERVER", "CLIENT_AND_SERVER")
"""A waypoint stands on the server's side."""
METRICS: Final[Mapping[str, str]] = {
    "REQUEST_COUNT": names.REQUESTS,
    "REQUEST_DURATION": names.REQUEST_MILLISECONDS,
    "REQUEST_SIZE": names.REQUEST_BYTES,
    "RESPONSE_SIZE": names.RESPONSE_BYTES,
    "TCP_OPENED_CONNECTIONS": names.CONNECTIONS_OPENED,
    "TCP_CLOSED_CONNECTIONS": names.CONNECTIONS_CLOSED,
    "TCP_SENT_BYTES": names.SENT_BYTES,
    "TCP_RECEIVED_BYTES": names.RECEIVED_BYTES,
    "GRPC_REQUEST_MESSAGES": names.REQUEST_MESSAGES,
    "GRPC_RESPONSE_MESSAGES": names.RESPONSE_MESSAGES,
}
DEFAULT_SAMPLING: Final = 1.0
"""Per cent (Istio: PILOT_TRACE_SAMPLING)."""
TagValue = Callable[[Record], str]


class Override(msgspec.Struct, frozen=True):
    """Of one metric: not counted at all, or with other tags (None: without the tag)."""

    metric: str
    disabled: bool | None = None
    tags: Mapping[str, TagValue | None] = {}


class LogRule(msgspec.Struct, frozen=True):
    """One ``accessLogging`` block; without ``providers`` it speaks of all."""

    providers: tuple[str, ...]
    disabled: bool
    passes: Callable[[Record], bool] | None


class TraceRule(msgspec.Struct, frozen=True, kw_only=True):
    """One ``tracing`` block; None where it does not say."""

    provider: str | None = None
    sampling: float | None = None
    silent: bool | None = None
    propagate: bool | None = None
    by_request_id: bool | None = None
    istio_tags: bool | None = None
    tags: tuple[CustomTag, ...] | None = None


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled object; without targets it is for its namespace."""

    namespace: str
    name: str
    age: tuple[str, str]
    targets: tuple[TargetRef, ...]
    metrics: tuple[Override, ...] = ()
    metric_providers: tuple[str, ...] | None = None
    logs: tuple[LogRule, ...] | None = None
    traces: tuple[TraceRule, ...] = ()


class Log(msgspec.Struct, frozen=True):
    """An access log to write, if a record ``passes``."""

    sink: LogSink | LogService
    passes: tuple[Callable[[Record], bool], ...] = ()


class Tracing(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are traced; without a ``tracer`` they are not. ``sampling``: per cent."""

    tracer: Tracer | None = None
    sampling: float = DEFAULT_SAMPLING
    silent: bool = False
    propagate: bool = True
    by_request_id: bool = True
    istio_tags: bool = True
    tags: tuple[CustomTag, ...] = ()


class Watch(msgspec.Struct, frozen=True):
    """What is measured, logged and traced for a destination. ``logs`` None: nobody says."""

    overrides: Mapping[str, Override] = {}
    measured: bool = True
    logs: tuple[Log, ...] | None = None
    tracing: Tracing = Tracing()


def select(
    found: Iterable[Telemetry], service: Service | None, place: Place, mesh: MeshSettings
) -> Watch:
    """For a service, or for a pod's own address: the mesh, then namespaces, then what is attached.

    In each namespace the oldest object without targets counts.
    """
    chain = list(_chain(list(found), service, place))
    return Watch(
        overrides=_overrides(chain),
        measured=_measured(chain, mesh),
        logs=_logs(chain, mesh),
        tracing=_tracing(chain, mesh),
    )


def _chain(found: list[Telemetry], service: Service | None, place: Place) -> Iterator[Telemetry]:
    levels = [place.root_namespace, place.namespace]
    if service is not None:
        levels.append(service.namespace)
    ordered = sorted(found, key=lambda one: one.age)
    for namespace in dict.fromkeys(levels):
        wide = (one for one in ordered if one.namespace == namespace and not one.targets)
        yield from [first for first in [next(wide, None)] if first is not None]
    yield from (one for one in ordered if holds_for(one.targets, one.namespace, service, place))


def _overrides(chain: list[Telemetry]) -> dict[str, Override]:
    merged: dict[str, Override] = {}
    for one in chain:
        for override in one.metrics:
            old = merged.get(override.metric, Override(override.metric))
            disabled = old.disabled if override.disabled is None else override.disabled
            merged[override.metric] = Override(
                override.metric, disabled, {**old.tags, **override.tags}
            )
    return merged


def _measured(chain: list[Telemetry], mesh: MeshSettings) -> bool:
    said: tuple[str, ...] | None = mesh.default_providers.metrics or None
    for one in chain:
        said = said if one.metric_providers is None else one.metric_providers
    return said is None or any(mesh.scraped(name) for name in said)


def _logs(chain: list[Telemetry], mesh: MeshSettings) -> tuple[Log, ...] | None:
    default = mesh.default_providers.access_logging
    if not default and mesh.access_log is not None:
        default = ("envoy",)
    rules = [rule for one in chain for rule in one.logs or ()]
    if not rules and not default:
        return None
    state: dict[str, tuple[Callable[[Record], bool], ...]] = dict.fromkeys(default, ())
    for rule in rules:
        for name in rule.providers or tuple(state) or ("envoy",):
            if rule.disabled:
                state.pop(name, None)
            else:
                state[name] = (rule.passes,) if rule.passes is not None else ()
    sinks = ((mesh.log_sink(name), passes) for name, passes in state.items())
    return tuple(Log(sink, passes) for sink, passes in sinks if sink is not None)


def _tracing(chain: list[Telemetry], mesh: MeshSettings) -> Tracing:
    default = mesh.default_providers.tracing
    said = TraceRule(provider=default[0] if default else None, sampling=mesh.sampling)
    for rule in (rule for one in chain for rule in one.traces):
        changed = {
            name: value
            for name in TraceRule.__struct_fields__
            if (value := getattr(rule, name)) is not None
        }
        said = msgspec.structs.replace(said, **changed)
    return Tracing(
        tracer=mesh.tracer(said.provider) if said.provider else None,
        sampling=DEFAULT_SAMPLING if said.sampling is None else said.sampling,
        silent=said.silent is True,
        propagate=said.propagate is not False,
        by_request_id=said.by_request_id is not False,
        istio_tags=said.istio_tags is not False,
        tags=said.tags or (),
    )


def unknown_providers(one: Telemetry, mesh: MeshSettings) -> Iterator[tuple[str, str]]:
    """Which part of an object names which provider that the mesh does not have, or not for this."""
    logs = dict.fromkeys(name for rule in one.logs or () for name in rule.providers)
    yield from (("accessLogging", name) for name in logs if mesh.log_sink(name) is None)
    traces = dict.fromkeys(rule.provider for rule in one.traces if rule.provider)
    yield from (("tracing", name) for name in traces if mesh.tracer(name) is None)


def compile_telemetry(config: ConfigObject) -> tuple[Telemetry, list[Problem]]:
    """The object, and the blocks that cannot be followed. Raises UnusableError for its targets."""
    spec = mapping(config.object.get("spec"), "spec")
    problems: list[Problem] = []

    def blocks(name: str) -> Iterator[tuple[Json, str]]:
        for index, raw in enumerate(sequence(spec.get(name), f"spec.{name}")):
            field = f"spec.{name}[{index}]"
            block = mapping(raw, field)
            mode = mapping(block.get("match"), f"{field}.match").get("mode") or ""
            if mode in SERVER_MODES:
                yield block, field

    def read(name: str, reader: Callable[[Json, str], Any]) -> list[Any]:
        found = []
        for block, field in blocks(name):
            try:
                found.append(reader(block, field))
            except UnusableError as bad:
                problems.append(Problem(config.key, bad.field, bad.reason, "the block is left out"))
        return found

    metrics = read("metrics", _metrics)
    providers = [given for _, given in metrics if given]
    logs = read("accessLogging", _log_rule)
    metadata = mapping(config.object.get("metadata"), "metadata")
    found = Telemetry(
        namespace=config.namespace,
        name=config.name,
        age=(str(metadata.get("creationTimestamp") or ""), config.name),
        targets=read_targets(spec),
        metrics=tuple(one for overrides, _ in metrics for one in overrides),
        metric_providers=providers[-1] if providers else None,
        logs=tuple(logs) if logs else None,
        traces=tuple(read("tracing", _trace_rule)),
    )
    return found, problems


def _providers(block: Json, field: str) -> tuple[str, ...]:
    return tuple(
        string(mapping(one, field).get("name"), f"{field}.providers[{index}].name")
        for index, one in enumerate(sequence(block.get("providers"), f"{field}.providers"))
    )


def _metrics(block: Json, field: str) -> tuple[list[Override], tuple[str, ...]]:
    found: list[Override] = []
    for index, raw in enumerate(sequence(block.get("overrides"), f"{field}.overrides")):
        where = f"{field}.overrides[{index}]"
        override = mapping(raw, where)
        match = mapping(override.get("match"), f"{where}.match")
        if (match.get("mode") or "") not in SERVER_MODES:
            continue
        tags = {
            tag: _tag(mapping(value, where), f"{where}.tagOverrides[{tag}]")
            for tag, value in mapping(override.get("tagOverrides"), where).items()
        }
        disabled = override.get("disabled")
        given = disabled if isinstance(disabled, bool) else None
        found += [Override(metric, given, tags) for metric in _metric_names(match, where)]
    return found, _providers(block, field)


def _metric_names(match: Json, field: str) -> Iterable[str]:
    custom = string(match.get("customMetric"), f"{field}.match.customMetric")
    metric = string(match.get("metric"), f"{field}.match.metric", "ALL_METRICS")
    if custom:
        return (custom.removesuffix("_total"),)
    if metric == "ALL_METRICS":
        return METRICS.values()
    if metric not in METRICS:
        raise UnusableError(f"{field}.match.metric", f"{metric!r} is unknown")
    return (METRICS[metric],)


def _tag(value: Json, field: str) -> TagValue | None:
    if value.get("operation") == "REMOVE":
        return None
    return text_of(string(value.get("value"), f"{field}.value"), f"{field}.value")


def _log_rule(block: Json, field: str) -> LogRule:
    text = mapping(block.get("filter"), f"{field}.filter").get("expression")
    where = f"{field}.filter.expression"
    passes = filter_of(string(text, where), where) if text else None
    return LogRule(_providers(block, field), block.get("disabled") is True, passes)


def _trace_rule(block: Json, field: str) -> TraceRule:
    providers = _providers(block, field)
    sampling = block.get("randomSamplingPercentage")
    if sampling is not None and (
        isinstance(sampling, bool)
        or not isinstance(sampling, int | float)
        or not 0 <= sampling <= 100
    ):
        raise UnusableError(f"{field}.randomSamplingPercentage", f"{sampling!r} is not 0 to 100")
    propagate = _flag(block, "disableContextPropagation")
    tags = block.get("customTags")
    return TraceRule(
        provider=providers[0] if providers else None,
        sampling=None if sampling is None else float(sampling),
        silent=_flag(block, "disableSpanReporting"),
        propagate=None if propagate is None else not propagate,
        by_request_id=_flag(block, "useRequestIdForTraceSampling"),
        istio_tags=_flag(block, "enableIstioTags"),
        tags=read_tags(tags, f"{field}.customTags") if tags is not None else None,
    )


def _flag(block: Json, name: str) -> bool | None:
    value = block.get(name)
    return value if isinstance(value, bool) else None
