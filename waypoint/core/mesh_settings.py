"""The mesh configuration as far as a waypoint follows it (Istio's MeshConfig)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ambient.api.config import ConfigObject
from waypoint.core.connection_pool import MeshPool, compile_mesh_pool
from waypoint.core.load_balancer import MESH_LOCALITY, LocalitySetting, compile_locality
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.path import Normalization
from waypoint.core.providers import (
    ExtAuthz,
    LogService,
    LogSink,
    Prometheus,
    Provider,
    Tracer,
    read_provider,
)
from waypoint.core.retry_policy import DEFAULT, RetryPolicy, compile_retries

KIND: Final = "MeshConfig"


class DefaultProviders(msgspec.Struct, frozen=True):
    """Names of providers that are used where no Telemetry object says anything."""

    metrics: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


class MeshSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``access_log`` None: the mesh does not say, and the waypoint logs in its own form."""

    providers: Mapping[str, Provider] = {}
    default_providers: DefaultProviders = DefaultProviders()
    access_log: LogSink | None = None
    normalization: Normalization = Normalization.BASE
    locality: LocalitySetting = MESH_LOCALITY
    trust_domain_aliases: tuple[str, ...] = ()
    retries: RetryPolicy = DEFAULT
    pool: MeshPool = MeshPool()
    sampling: float | None = None
    """Per cent of traces, of ``defaultConfig.tracing``."""

    @property
    def authorizers(self) -> frozenset[str]:
        """Providers that CUSTOM policies may ask."""
        return frozenset(name for name, one in self.providers.items() if isinstance(one, ExtAuthz))

    def tracer(self, name: str) -> Tracer | None:
        """A provider, if it takes traces."""
        found = self.providers.get(name)
        return found if isinstance(found, Tracer) else None

    def log_sink(self, name: str) -> LogSink | LogService | None:
        """A provider, if it takes access logs; ``envoy`` always does."""
        found = self.providers.get(name)
        if found is None and name == "envoy":
            return self.access_log or LogSink(name="envoy")
        return found if isinstance(found, LogSink | LogService) else None

    def scraped(self, name: str) -> bool:
        """Whether a provider takes metrics by scraping; ``prometheus`` always does."""
        return name == "prometheus" or isinstance(self.providers.get(name), Prometheus)


def compile_mesh(config: ConfigObject) -> tuple[MeshSettings, list[Problem]]:
    """What the object says; a part that cannot be read keeps its default and is a problem."""
    problems: list[Problem] = []

    def note(bad: UnusableError, effect: str) -> None:
        problems.append(Problem(config.key, bad.field, bad.reason, effect))

    spec = config.object.get("spec")
    if not isinstance(spec, Mapping):
        return MeshSettings(), problems
    providers: dict[str, Provider] = {}
    raw_providers = spec.get("extensionProviders")
    for index, raw in enumerate(raw_providers if isinstance(raw_providers, list) else ()):
        try:
            provider = read_provider(raw, f"extensionProviders[{index}]")
            providers[provider.name] = provider
        except UnusableError as bad:
            note(bad, "nobody can use this provider")
    parts: dict[str, Any] = {"providers": providers}
    for name, read in _PARTS.items():
        try:
            parts[name] = read(spec)
        except UnusableError as bad:
            note(bad, "the default holds")
    return MeshSettings(**parts), problems


def _defaults(spec: Json) -> DefaultProviders:
    found = mapping(spec.get("defaultProviders"), "defaultProviders")
    return DefaultProviders(
        strings(found.get("metrics"), "defaultProviders.metrics"),
        strings(found.get("tracing"), "defaultProviders.tracing"),
        strings(found.get("accessLogging"), "defaultProviders.accessLogging"),
    )


def _access_log(spec: Json) -> LogSink | None:
    path = string(spec.get("accessLogFile"), "accessLogFile")
    if not path:
        return None
    text = string(spec.get("accessLogFormat"), "accessLogFormat") or None
    encoding = string(spec.get("accessLogEncoding"), "accessLogEncoding", "TEXT")
    if encoding not in ("TEXT", "JSON"):
        raise UnusableError("accessLogEncoding", f"{encoding!r} is neither TEXT nor JSON")
    if encoding == "TEXT":
        return LogSink(name="envoy", path=path, text=text)
    labels: Any = {}
    if text:
        try:
            labels = mapping(msgspec.json.decode(text), "accessLogFormat")
        except msgspec.DecodeError:
            raise UnusableError("accessLogFormat", "is no JSON object") from None
    return LogSink(name="envoy", path=path, labels=labels)


def _normalization(spec: Json) -> Normalization:
    found = mapping(spec.get("pathNormalization"), "pathNormalization")
    name = string(found.get("normalization"), "pathNormalization.normalization", "DEFAULT")
    if name == "DEFAULT":
        return Normalization.BASE
    try:
        return Normalization(name)
    except ValueError:
        known = ", ".join(one.value for one in Normalization)
        field = "pathNormalization.normalization"
        raise UnusableError(field, f"{name!r} is none of {known}") from None


def _locality(spec: Json) -> LocalitySetting:
    return compile_locality(spec.get("localityLbSetting"), "localityLbSetting") or MESH_LOCALITY


def _sampling(spec: Json) -> float | None:
    proxy = mapping(spec.get("defaultConfig"), "defaultConfig")
    tracing = mapping(proxy.get("tracing"), "defaultConfig.tracing")
    value = tracing.get("sampling")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise UnusableError("defaultConfig.tracing.sampling", f"{value!r} is not 0 to 100")
    return float(value)


_PARTS: Final = {
    "default_providers": _defaults,
    "access_log": _access_log,
    "normalization": _normalization,
    "locality": _locality,
    "trust_domain_aliases": lambda spec: strings(
        sequence(spec.get("trustDomainAliases"), "trustDomainAliases"), "trustDomainAliases"
    ),
    "retries": lambda spec: compile_retries(
        spec.get("defaultHttpRetryPolicy"), "defaultHttpRetryPolicy"
    ),
    "pool": compile_mesh_pool,
    "sampling": _sampling,
}
