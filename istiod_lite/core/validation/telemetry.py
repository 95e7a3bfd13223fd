"""Telemetry and EnvoyFilter (istio pkg/config/validation)."""

from __future__ import annotations

from typing import Final

from istiod_lite.core import envoy_filters
from istiod_lite.core.validation.report import Field
from istiod_lite.core.validation.security import targets

MODES: Final = ("CLIENT_AND_SERVER", "CLIENT", "SERVER")
METRICS: Final = (
    "ALL_METRICS", "REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS", "TCP_CLOSED_CONNECTIONS", "TCP_SENT_BYTES", "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES", "GRPC_RESPONSE_MESSAGES",
)  # fmt: skip
_TRACING: Final = {
    "match", "providers", "randomSamplingPercentage", "disableSpanReporting", "customTags",
    "useRequestIdForTraceSampling", "disableContextPropagation", "enableIstioTags",
}  # fmt: skip
_TAGS: Final = {"literal": "value", "environment": "name", "header": "name", "formatter": "value"}


def telemetry(spec: Field) -> None:
    """What is measured, logged and traced."""
    spec.known({"selector", "targetRef", "targetRefs", "tracing", "metrics", "accessLogging"})
    spec["selector"].selector()
    targets(spec)
    for tracing in spec["tracing"].items():
        _tracing(tracing)
    for metrics in spec["metrics"].items():
        _metrics(metrics)
    for logging in spec["accessLogging"].items():
        logging.known({"match", "providers", "disabled", "filter"})
        _match(logging["match"], {"mode"})
        _providers(logging)
        logging["filter"].known({"expression"})


def _providers(block: Field) -> None:
    for provider in block["providers"].items():
        provider.known({"name"})
        provider["name"].required("name a provider of the mesh configuration")


def _match(match: Field, known: set[str]) -> None:
    match.known(known)
    match["mode"].one_of(MODES)


def _tracing(tracing: Field) -> None:
    tracing.known(_TRACING)
    _match(tracing["match"], {"mode"})
    _providers(tracing)
    if len(tracing["providers"].items()) > 1:
        tracing["providers"].wrong("has several, of which one can be used", "keep one")
    sampled = tracing["randomSamplingPercentage"]
    value = sampled.value
    if sampled.present and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100
    ):
        sampled.wrong(f"{value!r} is no percentage", "use a number from 0 to 100")
    for name, tag in tracing["customTags"].entries():
        kinds = [kind for kind in _TAGS if tag[kind].present]
        if not name:
            tag.wrong("has no name")
        if len(kinds) != 1:
            tag.wrong("needs exactly one source", f"use one of {', '.join(_TAGS)}")
        for kind in kinds:
            tag[kind][_TAGS[kind]].required("it says what the tag holds")


def _metrics(metrics: Field) -> None:
    metrics.known({"providers", "overrides", "reportingInterval"})
    _providers(metrics)
    metrics["reportingInterval"].duration()
    for override in metrics["overrides"].items():
        override.known({"match", "disabled", "tagOverrides"})
        match = override["match"]
        _match(match, {"mode", "metric", "customMetric"})
        match["metric"].one_of(METRICS)
        if match["metric"].given and match["customMetric"].given:
            match.wrong("has metric and customMetric", "keep one of them")
        for _, tag in override["tagOverrides"].entries():
            tag.known({"operation", "value"})
            operation = tag["operation"].one_of(("UPSERT", "REMOVE")) or "UPSERT"
            if operation == "UPSERT":
                tag["value"].required("UPSERT needs a CEL expression, such as \"'text'\"")
            elif tag["value"].given:
                tag["value"].wrong("has no meaning for REMOVE", "remove it")


def envoy_filter(spec: Field) -> None:
    """Patches that waypoints do not follow are no mistake, but have no effect here."""
    spec.known({"workloadSelector", "targetRefs", "configPatches", "priority"})
    targets(spec)
    for patch in spec["configPatches"].items():
        patch.known({"applyTo", "match", "patch"})
        patch["applyTo"].required("say what is patched")
        patch["patch"]["operation"].required("say how")
        if not envoy_filters.is_followed(patch.value):
            patch.warn(f"has no effect: waypoints understand {envoy_filters.UNDERSTOOD} only")
