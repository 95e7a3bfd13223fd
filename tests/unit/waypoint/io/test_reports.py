"""What is told of requests: metrics, access logs, spans."""

from __future__ import annotations

import json

import pytest
import trio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from prometheus_client import CollectorRegistry, generate_latest

from ambient.api.service import AppProtocol
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_safeguards import (
    AUTHZ_AT,
    authz_service,
    grpc_server,
    http_authorizer,
    register,
)
from tests.unit.waypoint.sample import config, policy

OTEL = {"name": "otel", "opentelemetry": {"service": "authz.shop.svc.cluster.local", "port": 9000}}


def mesh(**spec):
    return config("MeshConfig", "istio", spec, "istio-system")


def telemetry(**spec):
    return config("Telemetry", "all", spec)


def scraped(made):
    registry = CollectorRegistry()
    registry.register(made.service.reports.metrics)
    return generate_latest(registry).decode()


def series(made, name):
    return [line for line in scraped(made).splitlines() if line.startswith(name)]


async def test_every_metric_of_a_request():
    async with rig() as made:
        await (await made.caller()).get("/", "POST", body=b"x" * 50)
        (total,) = series(made, "istio_requests_total")
        for label in (
            'reporter="waypoint"',
            'response_code="200"',
            'response_flags="-"',
            'connection_security_policy="mutual_tls"',
            'source_principal="spiffe://cluster.local/ns/shop/sa/curl"',
            'destination_principal="spiffe://cluster.local/ns/shop/sa/reviews"',
            'destination_service="reviews.shop.svc.cluster.local"',
            'destination_service_name="reviews"',
            'request_protocol="http"',
            'grpc_response_status=""',
        ):
            assert label in total
        for name in (
            "istio_request_duration_milliseconds_count",
            "istio_request_bytes_sum",
            "istio_response_bytes_bucket",
        ):
            assert series(made, name)
        (size,) = series(made, "istio_request_bytes_sum")
        assert float(size.rpartition(" ")[2]) > 50


async def test_tags_are_changed_and_metrics_switched_off():
    overrides = [
        {"tagOverrides": {"custom": {"value": "'test'"}, "source_principal": {
            "operation": "REMOVE"}}},
        {"match": {"metric": "REQUEST_SIZE"}, "disabled": True},
    ]  # fmt: skip
    async with rig() as made:
        made.configure(telemetry(metrics=[{"overrides": overrides}]))
        caller = await made.caller()
        for _ in range(2):
            await caller.get()
        (total,) = [line for line in series(made, "istio_requests_total") if "v1" in line][:1] or (
            series(made, "istio_requests_total")[:1]
        )
        assert 'custom="test"' in total
        assert "source_principal" not in total
        assert series(made, "istio_request_bytes") == []


async def test_a_refused_request_is_counted_without_an_endpoint():
    async with rig() as made:
        made.configure(policy([]))
        await (await made.caller()).get()
        (total,) = series(made, "istio_requests_total")
        assert 'response_code="403"' in total
        assert 'destination_workload="unknown"' in total


async def test_logs_in_the_form_that_the_mesh_asks_for(tmp_path):
    out = tmp_path / "access.log"
    async with rig() as made:
        made.configure(mesh(accessLogFile=str(out), accessLogEncoding="JSON"))
        await (await made.caller()).get("/a")
        made.configure(mesh(accessLogFile=str(out), accessLogFormat="%REQ(:PATH)% %DURATION%!\n"))
        await (await made.caller()).get("/b")
        made.configure(
            mesh(accessLogFile=str(out)),
            telemetry(accessLogging=[{"filter": {"expression": "response.code >= 400"}}]),
        )
        await (await made.caller()).get("/c")
        made.service.reports.logs.close()
    first, second, *rest = out.read_text().splitlines()
    assert (json.loads(first)["path"], json.loads(first)["response_code"]) == ("/a", 200)
    assert second.startswith("/b ")
    assert rest == []


def collector(seen):
    def answer(path, raw):
        found = trace_service_pb2.ExportTraceServiceRequest.FromString(raw)
        resource = found.resource_spans[0]
        name = resource.resource.attributes[0].value.string_value
        # Two installed packages bring this module; the older one calls the field by its first name.
        scopes = getattr(resource, "scope_spans", None) or resource.instrumentation_library_spans
        seen.extend((name, span) for span in scopes[0].spans)
        return 0, b""

    return grpc_server(answer, [])


async def until(seen, count):
    while len(seen) < count:
        await trio.sleep(0.02)


def tags(span):
    return {one.key: one.value.string_value for one in span.attributes}


async def test_spans_of_three_hops_are_one_trace():
    """The application calls on with the headers that it got: its span is the waypoint's child."""
    seen = []
    rule = {"randomSamplingPercentage": 100, "customTags": {"team": {"literal": {"value": "a"}}}}
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, collector(seen), 9000)
        made.configure(
            mesh(extensionProviders=[OTEL], defaultProviders={"tracing": ["otel"]}),
            telemetry(tracing=[rule]),
        )
        headers, got = {}, None
        for _ in range(3):
            got = await (await made.caller()).get("/a", **headers)
            headers = {"traceparent": got.json["headers"]["traceparent"]}
        await until(seen, 3)
    spans = sorted((span for _, span in seen), key=lambda span: span.start_time_unix_nano)
    assert {name for name, _ in seen} == {"waypoint.shop"}
    assert len({span.trace_id for span in spans}) == 1
    assert [span.parent_span_id for span in spans] == [b"", spans[0].span_id, spans[1].span_id]
    assert spans[0].name == "reviews.shop.svc.cluster.local:9080/*"
    said = tags(spans[0])
    assert (said["team"], said["http.status_code"], said["component"]) == ("a", "200", "proxy")
    assert said["istio.destination_canonical_service"] == "reviews"


async def test_what_is_not_sampled_is_passed_on_and_not_reported():
    seen = []
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, collector(seen), 9000)
        made.configure(
            mesh(extensionProviders=[OTEL], defaultProviders={"tracing": ["otel"]}),
            telemetry(tracing=[{"randomSamplingPercentage": 0}]),
        )
        got = await (await made.caller()).get()
        assert got.json["headers"]["traceparent"].endswith("-00")
        await made.service.reports.spans.flush()
    assert seen == []


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ({"opentelemetry": {"http": {"path": "/otlp/v1/traces", "headers": [
            {"name": "X-Key", "value": "k"}]}}}, b"/otlp/v1/traces"),
        ({"zipkin": {}}, b"/api/v2/spans"),
    ],
)  # fmt: skip
async def test_collectors_that_speak_http(provider, path):
    seen = []
    ((kind, more),) = provider.items()
    spec = {"service": "authz.shop.svc.cluster.local", "port": 9000, **more}
    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, http_authorizer(lambda request: (202, [], b""), seen), 9000)
        made.configure(
            mesh(extensionProviders=[{"name": "c", kind: spec}]),
            telemetry(tracing=[{"providers": [{"name": "c"}], "randomSamplingPercentage": 100}]),
        )
        got = await (await made.caller()).get()
        await until(seen, 1)
    request, body = seen[0]
    assert request.target == path
    if kind == "zipkin":
        (span,) = json.loads(body)
        assert span["traceId"] == got.json["headers"]["x-b3-traceid"]
    else:
        assert dict(request.headers)[b"x-key"] == b"k"
        trace_service_pb2.ExportTraceServiceRequest.FromString(body)
