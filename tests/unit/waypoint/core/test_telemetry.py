"""Who says what is measured, logged and traced, and who overrides whom."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.core.test_log_format import record
from tests.unit.waypoint.sample import config, program, service
from waypoint.core.watches import Watches

TARGETS = [{"kind": "Service", "group": "", "name": "reviews"}]
MESH = config(
    "MeshConfig",
    "istio",
    {
        "accessLogFile": "/dev/stdout",
        "defaultProviders": {"tracing": ["otel"]},
        "extensionProviders": [
            {"name": "otel", "opentelemetry": {"service": "otel.shop", "port": 4317}},
            {"name": "zip", "zipkin": {"service": "zipkin.shop", "port": 9411}},
            {"name": "file", "envoyFileAccessLog": {"path": "/tmp/x", "logFormat": {
                "labels": {"a": "%DURATION%"}}}},
        ],
    },
    "istio-system",
)  # fmt: skip


def telemetry(name, namespace="shop", targets=False, **spec):
    if targets:
        spec["targetRefs"] = TARGETS
    return config("Telemetry", name, spec, namespace, creationTimestamp=name)


def watch(*objects):
    made = Watches(program(*objects))
    return made.of(service()), made.problems


def sinks(*objects):
    logs = watch(*objects)[0].logs
    return None if logs is None else [one.sink.name for one in logs]


@pytest.mark.parametrize(
    ("objects", "names"),
    [
        ([], None),  # nobody says: the waypoint's own form
        ([MESH], ["envoy"]),
        ([telemetry("a", accessLogging=[{"providers": [{"name": "envoy"}]}])], ["envoy"]),
        ([MESH, telemetry("a", accessLogging=[{"disabled": True}])], []),
        ([MESH, telemetry("a", accessLogging=[{"providers": [{"name": "file"}]}])],
         ["envoy", "file"]),
        ([MESH, telemetry("a", accessLogging=[{"disabled": True}]),
          telemetry("b", targets=True, accessLogging=[{"providers": [{"name": "file"}]}])],
         ["file"]),
        ([MESH, telemetry("a", accessLogging=[{"disabled": True, "match": {"mode": "CLIENT"}}])],
         ["envoy"]),
        ([MESH, telemetry("b", accessLogging=[{"disabled": True}]), telemetry("a")], ["envoy"]),
        ([MESH, telemetry("r", "istio-system", accessLogging=[{"disabled": True}])], []),
        ([MESH, telemetry("r", "elsewhere", accessLogging=[{"disabled": True}])], ["envoy"]),
    ],
)  # fmt: skip
def test_access_logs(objects, names):
    assert sinks(*objects) == names


def test_a_filter_of_access_logs():
    rule = {"filter": {"expression": "response.code >= 400"}}
    (log,) = watch(MESH, telemetry("a", accessLogging=[rule]))[0].logs
    assert [log.passes[0](record(status=code)) for code in (200, 503)] == [False, True]


def tags(found, metric):
    return {
        tag: value(record()) if value is not None else None
        for tag, value in found.overrides[metric].tags.items()
    }


def test_tags_of_metrics():
    everything = {"tagOverrides": {"custom": {"value": "'test'"}, "source_principal": {
        "operation": "REMOVE"}}}  # fmt: skip
    one = {"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"custom": {
        "value": "request.method"}}}  # fmt: skip
    found, problems = watch(
        telemetry("a", targets=True, metrics=[{"overrides": [everything, one]}])
    )
    assert problems == ()
    assert tags(found, "istio_requests") == {"custom": "GET", "source_principal": None}
    assert tags(found, "istio_request_bytes") == {"custom": "test", "source_principal": None}


def test_metrics_that_are_not_wanted():
    off = {"match": {"metric": "RESPONSE_SIZE"}, "disabled": True}
    client = {"match": {"metric": "REQUEST_SIZE", "mode": "CLIENT"}, "disabled": True}
    found, _ = watch(telemetry("a", metrics=[{"overrides": [off, client]}]))
    assert [name for name, one in found.overrides.items() if one.disabled] == [
        "istio_response_bytes"
    ]
    assert not watch(telemetry("a", metrics=[{"providers": [{"name": "statsd"}]}]))[0].measured


def test_traces_by_default_and_by_telemetry():
    plain = watch(MESH)[0].tracing
    assert (plain.tracer.name, plain.sampling, plain.silent) == ("otel", 1.0, False)
    rule = {
        "providers": [{"name": "zip"}],
        "randomSamplingPercentage": 12.5,
        "disableContextPropagation": True,
        "customTags": {
            "a": {"literal": {"value": "x"}},
            "b": {"header": {"name": "X-Team", "defaultValue": "none"}},
            "c": {"header": {"name": "X-None", "defaultValue": "none"}},
            "d": {"environment": {"name": "HOME", "defaultValue": "?"}},
            "e": {"formatter": {"value": "%REQ(:METHOD)%"}},
        },
    }
    own = {"disableSpanReporting": True}
    found = watch(MESH, telemetry("a", tracing=[rule]), telemetry("b", targets=True,
                  tracing=[own]))[0].tracing  # fmt: skip
    assert (found.tracer.name, found.sampling, found.silent, found.propagate) == (
        "zip", 12.5, True, False,
    )  # fmt: skip
    said = {tag.name: tag.value(record(), {"HOME": "/h"}.get) for tag in found.tags}
    assert said == {"a": "x", "b": "blue", "c": "none", "d": "/h", "e": "GET"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"metrics": [{"overrides": [{"match": {"metric": "X"}}]}]},
         "spec.metrics[0].overrides[0].match.metric"),
        ({"metrics": [{"overrides": [{"tagOverrides": {"a": {"value": "1 +"}}}]}]},
         "spec.metrics[0].overrides[0].tagOverrides[a].value"),
        ({"accessLogging": [{"filter": {"expression": ")"}}]},
         "spec.accessLogging[0].filter.expression"),
        ({"tracing": [{"randomSamplingPercentage": 200}]},
         "spec.tracing[0].randomSamplingPercentage"),
        ({"tracing": [{"customTags": {"a": {}}}]}, "spec.tracing[0].customTags[a]"),
        ({"targetRefs": "x"}, "spec.targetRefs"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_named(spec, field):
    _, problems = watch(telemetry("a", **spec))
    assert [one.field for one in problems] == [field]


def test_providers_that_the_mesh_does_not_have_are_said():
    spec = {
        "accessLogging": [{"providers": [{"name": "file"}, {"name": "otel"}, {"name": "gone"}]}],
        "tracing": [{"providers": [{"name": "file"}]}],
    }
    _, problems = watch(MESH, telemetry("a", **spec))
    assert [(one.field, one.reason.split("'")[1], one.effect) for one in problems] == [
        ("spec.accessLogging.providers", "otel", "nothing is sent there"),  # takes spans, not logs
        ("spec.accessLogging.providers", "gone", "nothing is sent there"),
        ("spec.tracing.providers", "file", "nothing is sent there"),
    ]
    assert watch(MESH, telemetry("a", accessLogging=[{"providers": [{"name": "envoy"}]}]))[1] == ()
