"""Access logs at collectors: real gRPC servers behind a waypoint's mesh."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
import trio
from envoy.service.accesslog.v3 import als_pb2
from prometheus_client import CollectorRegistry, generate_latest

from ambient.api.pb import otlp_pb2
from ambient.api.service import AppProtocol, Port
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_safeguards import AUTHZ_AT, authz_service, register
from tests.unit.waypoint.sample import REVIEWS, config, policy, service, workload
from waypoint.io import batch_export

AT = {"service": "authz.shop.svc.cluster.local", "port": 9000}


class OtlpLogs:
    """An OTLP receiver. ``failures``: statuses of the first calls."""

    def __init__(self, failures=(), rejected=0) -> None:
        self.requests: list[otlp_pb2.ExportLogsServiceRequest] = []
        self.calls = 0
        self._failures = list(failures)
        self._rejected = rejected

    def export(self, request, context):
        self.calls += 1
        if self._failures:
            context.abort(self._failures.pop(0), "not now")
        self.requests.append(request)
        answer = otlp_pb2.ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = self._rejected
        return answer

    @property
    def records(self):
        return [record for one in self.requests for record in
                one.resource_logs[0].scope_logs[0].log_records]  # fmt: skip


@contextmanager
def otlp_server(receiver: OtlpLogs) -> Iterator[None]:
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.export,
        otlp_pb2.ExportLogsServiceRequest.FromString,
        otlp_pb2.ExportLogsServiceResponse.SerializeToString,
    )
    name = "opentelemetry.proto.collector.logs.v1.LogsService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"Export": handler})]
    )
    with listening(server):
        yield


@contextmanager
def als_server(seen: list) -> Iterator[None]:
    def stream(messages, context):
        seen.extend(messages)
        return als_pb2.StreamAccessLogsResponse()

    handler = grpc.stream_unary_rpc_method_handler(
        stream,
        als_pb2.StreamAccessLogsMessage.FromString,
        als_pb2.StreamAccessLogsResponse.SerializeToString,
    )
    name = "envoy.service.accesslog.v3.AccessLogService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"StreamAccessLogs": handler})]
    )
    with listening(server):
        yield


@contextmanager
def listening(server: grpc.Server) -> Iterator[None]:
    assert server.add_insecure_port(f"{AUTHZ_AT}:9000")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def providers(kind, **spec):
    return config(
        "MeshConfig",
        "istio",
        {
            "extensionProviders": [{"name": "logs", kind: {**AT, **spec}}],
            "defaultProviders": {"accessLogging": ["logs"]},
        },
        "istio-system",
    )


async def until(condition):
    while not condition():
        await trio.sleep(0.02)


def counted(made) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(made.service.reports.sent_logs)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name.rpartition("_")[2]: float(value) for name, value in pairs}


async def test_an_otlp_receiver_gets_body_labels_and_trace():
    receiver = OtlpLogs()
    form = {
        "text": "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%",
        "labels": {"who": "%DOWNSTREAM_PEER_URI_SAN%", "fixed": "a", "none": "%REQ(X-NO)%"},
    }
    tracing = config("Telemetry", "t", {"tracing": [{"providers": [{"name": "spans"}]}]})
    mesh = providers("envoyOtelAls", logName="shop-log", logFormat=form)
    mesh.object["spec"]["extensionProviders"].append(
        {"name": "spans", "zipkin": {**AT, "port": 9001}}
    )
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with otlp_server(receiver):
            made.configure(mesh, tracing)
            got = await (await made.caller()).get("/a?b=c", "POST", body=b"x")
            await until(lambda: receiver.requests)
            await until(lambda: counted(made)["written"] == 1)
    (record,) = receiver.records
    resource = {one.key: one.value.string_value
                for one in receiver.requests[0].resource_logs[0].resource.attributes}  # fmt: skip
    assert resource == {"service.name": "waypoint.shop", "log_name": "shop-log"}
    assert record.body.string_value == "POST /a?b=c 200"
    assert {one.key: one.value.string_value for one in record.attributes} == {
        "who": "spiffe://cluster.local/ns/shop/sa/curl",
        "fixed": "a",
        "none": "-",
    }
    assert record.trace_id.hex() == got.json["headers"]["x-b3-traceid"]
    assert record.span_id.hex() == got.json["headers"]["x-b3-spanid"]
    assert record.observed_time_unix_nano >= record.time_unix_nano > 1.7e18


async def test_without_a_format_the_body_is_istios_line_and_refusals_are_told_too():
    receiver = OtlpLogs()
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with otlp_server(receiver):
            made.configure(providers("envoyOtelAls"), policy([]))
            await (await made.caller()).get("/secret")
            await until(lambda: receiver.records)
    (record,) = receiver.records
    assert '"GET /secret HTTP/1.1" 403 - rbac_access_denied' in record.body.string_value
    attributes = receiver.requests[0].resource_logs[0].resource.attributes
    assert attributes[1].value.string_value == "otel_envoy_accesslog"


async def test_a_receiver_that_is_busy_gets_the_logs_later():
    receiver = OtlpLogs([grpc.StatusCode.UNAVAILABLE])
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with otlp_server(receiver):
            made.configure(providers("envoyOtelAls"))
            await (await made.caller()).get()
            await until(lambda: receiver.records)
            await until(lambda: counted(made) == {"written": 1, "dropped": 0})
    assert receiver.calls == 2


@pytest.mark.parametrize(
    ("receiver", "calls"),
    [(OtlpLogs([grpc.StatusCode.INVALID_ARGUMENT]), 1), (OtlpLogs(rejected=1), 1)],
    ids=["refused", "partly"],
)
async def test_what_a_receiver_refuses_is_counted(receiver, calls):
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with otlp_server(receiver):
            made.configure(providers("envoyOtelAls"))
            await (await made.caller()).get()
            await until(lambda: counted(made) == {"written": 0, "dropped": 1})
    assert receiver.calls == calls


async def test_a_receiver_that_is_away_costs_no_request_and_no_memory(monkeypatch):
    monkeypatch.setattr(batch_export, "MAX_WAITING", 5)
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        made.configure(providers("envoyOtelAls"))
        caller = await made.caller()
        assert [(await caller.get()).status for _ in range(8)] == [200] * 8
        await made.service.reports.flush()
        await until(lambda: counted(made) == {"written": 0, "dropped": 8})


async def test_many_records_go_in_batches(monkeypatch):
    monkeypatch.setattr(batch_export, "BATCH", 3)
    receiver = OtlpLogs()
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with otlp_server(receiver):
            made.configure(providers("envoyOtelAls"))
            caller = await made.caller()
            for _ in range(8):
                await caller.get()
            await until(lambda: len(receiver.records) == 8)
    assert max(len(one.resource_logs[0].scope_logs[0].log_records)
               for one in receiver.requests) <= 3  # fmt: skip


async def test_envoys_access_log_service_for_requests():
    seen: list = []
    more = {
        "logName": "mine",
        "additionalRequestHeadersToLog": ["X-Team"],
        "additionalResponseHeadersToLog": ["x-version"],
    }
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with als_server(seen):
            made.configure(providers("envoyHttpAls", **more))
            await (await made.caller()).get("/a", x_team="blue", user_agent="curl")
            await until(lambda: seen)
    (message,) = seen
    assert (message.identifier.log_name, message.identifier.node.cluster) == (
        "mine",
        "waypoint.shop",
    )
    (entry,) = message.http_logs.log_entry
    asked, answered, common = entry.request, entry.response, entry.common_properties
    assert (asked.path, asked.user_agent, dict(asked.request_headers)) == (
        "/a", "curl", {"x-team": "blue"})  # fmt: skip
    assert (answered.response_code.value, "x-version" in answered.response_headers) == (200, True)
    assert common.upstream_cluster == "inbound-vip|9080|http|reviews.shop.svc.cluster.local"
    (san,) = common.tls_properties.peer_certificate_properties.subject_alt_name
    assert san.uri == "spiffe://cluster.local/ns/shop/sa/curl"
    assert not common.HasField("response_flags")


async def test_envoys_access_log_service_for_connections():
    seen: list = []
    port = Port(9080, 9080, AppProtocol.TCP)
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC), service(ports=(port,)))
        for ip, version in (("127.0.1.1", "v1"), ("127.0.1.2", "v2")):
            register(made, workload(f"reviews-{version}", ip, version, services={REVIEWS: (port,)}))
        with als_server(seen):
            made.configure(providers("envoyTcpAls"))
            got = await (await made.caller()).get("/a")
            assert got.status == 200
            stream = await made.open()
            await stream.aclose()
            await until(lambda: seen)
    entry = seen[0].tcp_logs.log_entry[0]
    assert seen[0].identifier.log_name == "tcp_envoy_accesslog"
    assert entry.common_properties.downstream_local_address.socket_address.port_value == 9080


async def test_the_http_service_hears_nothing_of_connections_and_flags_are_fields():
    seen: list = []
    async with rig(apps=False) as made:
        register(made, *authz_service(AppProtocol.GRPC))
        with als_server(seen):
            made.configure(providers("envoyHttpAls"))
            assert (await (await made.caller()).get("/a")).status == 503
            await until(lambda: seen)
    (entry,) = seen[0].http_logs.log_entry
    flags = entry.common_properties.response_flags
    assert (flags.upstream_connection_failure, flags.upstream_retry_limit_exceeded) == (True, True)
