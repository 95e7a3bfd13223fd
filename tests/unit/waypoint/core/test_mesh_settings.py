"""The mesh configuration as a waypoint reads it."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import config, program, service, subsets
from waypoint.core.connection_pool import Keepalive
from waypoint.core.load_balancer import MESH_LOCALITY
from waypoint.core.mesh_settings import MeshSettings, compile_mesh
from waypoint.core.path import Normalization
from waypoint.core.providers import Address, ExtAuthz, LogProtocol, LogSink, Tracer
from waypoint.core.retry_policy import DEFAULT_ON, RetryOn


def compiled(spec):
    return compile_mesh(config("MeshConfig", "istio", spec, "istio-system"))


def provider(kind, **spec):
    given = {"service": "authz.shop.svc.cluster.local", "port": 9000, **spec}
    found, problems = compiled({"extensionProviders": [{"name": "p", kind: given}]})
    return found.providers.get("p"), [one.field for one in problems]


def test_nothing_said_is_the_default():
    assert compiled({}) == (MeshSettings(), [])
    assert compiled(None) == (MeshSettings(), [])


def test_an_http_authorizer_with_every_field():
    found, problems = provider(
        "envoyExtAuthzHttp",
        service="shop/authz.example.com",
        timeout="1.5s",
        failOpen=True,
        statusOnError="503",
        pathPrefix="/check",
        includeRequestHeadersInCheck=["X-A"],
        includeHeadersInCheck=["x-old"],
        includeAdditionalHeadersInCheck={"X-From": "mesh"},
        includeRequestBodyInCheck={"maxRequestBytes": 10, "allowPartialMessage": True},
        headersToUpstreamOnAllow=["x-u*"],
        headersToDownstreamOnAllow=["x-d"],
        headersToDownstreamOnDeny=["*-n"],
    )
    assert problems == []
    assert isinstance(found, ExtAuthz)
    assert (found.at, found.grpc) == (Address("authz.example.com", 9000, "shop"), False)
    assert (found.timeout_s, found.fail_open, found.status_on_error) == (1.5, True, 503)
    assert (found.path_prefix, found.include_headers) == ("/check", ("x-a", "x-old"))
    assert found.additional_headers == (("x-from", "mesh"),)
    assert (found.body.max_bytes, found.body.partial, found.body.as_bytes) == (10, True, False)
    assert (found.upstream_on_allow, found.downstream_on_allow, found.downstream_on_deny) == (
        ("x-u*",), ("x-d",), ("*-n",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "spec", "path", "w3c", "b3"),
    [
        ("opentelemetry", {}, "", True, False),
        ("opentelemetry", {"http": {"path": "/x"}}, "/x", True, False),
        ("zipkin", {}, "/api/v2/spans", False, True),
        ("zipkin", {"traceContextOption": "USE_B3_WITH_W3C_PROPAGATION"}, "/api/v2/spans", True,
         True),
    ],
)  # fmt: skip
def test_tracers(kind, spec, path, w3c, b3):
    found, _ = provider(kind, **spec)
    assert isinstance(found, Tracer)
    assert (found.path, found.w3c, found.b3) == (path, w3c, b3)


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("envoyExtAuthzHttp", {"port": 0}, "extensionProviders[0].envoyExtAuthzHttp"),
        ("envoyExtAuthzHttp", {"service": ""}, "extensionProviders[0].envoyExtAuthzHttp"),
        ("envoyExtAuthzHttp", {"statusOnError": "99"},
         "extensionProviders[0].envoyExtAuthzHttp.statusOnError"),
        ("envoyExtAuthzGrpc", {"includeRequestBodyInCheck": {}},
         "extensionProviders[0].envoyExtAuthzGrpc.includeRequestBodyInCheck.maxRequestBytes"),
        ("datadog", {}, "extensionProviders[0].datadog"),
    ],
)  # fmt: skip
def test_providers_that_nobody_can_use(kind, spec, field):
    assert provider(kind, **spec) == (None, [field])


@pytest.mark.parametrize(
    ("spec", "name", "value"),
    [
        ({"pathNormalization": {"normalization": "MERGE_SLASHES"}}, "normalization",
         Normalization.MERGE_SLASHES),
        ({"pathNormalization": {"normalization": "DEFAULT"}}, "normalization",
         Normalization.BASE),
        ({"trustDomainAliases": ["old"]}, "trust_domain_aliases", ("old",)),
        ({"defaultConfig": {"tracing": {"sampling": 10}}}, "sampling", 10.0),
        ({"accessLogFile": "/dev/stdout", "accessLogFormat": "x"}, "access_log",
         LogSink(name="envoy", text="x")),
        ({"accessLogFile": "/x", "accessLogEncoding": "JSON", "accessLogFormat": '{"a": "b"}'},
         "access_log", LogSink(name="envoy", path="/x", labels={"a": "b"})),
    ],
)  # fmt: skip
def test_parts(spec, name, value):
    found, problems = compiled(spec)
    assert (getattr(found, name), problems) == (value, [])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"pathNormalization": {"normalization": "SOME"}}, "pathNormalization.normalization"),
        ({"accessLogFile": "/x", "accessLogEncoding": "XML"}, "accessLogEncoding"),
        ({"accessLogFile": "/x", "accessLogEncoding": "JSON", "accessLogFormat": "{"},
         "accessLogFormat"),
        ({"defaultConfig": {"tracing": {"sampling": 101}}}, "defaultConfig.tracing.sampling"),
        ({"localityLbSetting": {"enabled": "yes"}}, "localityLbSetting.enabled"),
        ({"trustDomainAliases": "old"}, "trustDomainAliases"),
        ({"defaultHttpRetryPolicy": {"retryOn": "rain"}}, "defaultHttpRetryPolicy.retryOn"),
        ({"connectTimeout": "soon"}, "connectTimeout"),
        ({"h2UpgradePolicy": "NEVER"}, "h2UpgradePolicy"),
    ],
)  # fmt: skip
def test_parts_that_keep_their_default(spec, field):
    _, problems = compiled(spec)
    assert [(one.field, one.effect) for one in problems] == [(field, "the default holds")]


def test_locality_of_the_mesh_counts_for_every_cluster_without_a_word_of_its_own():
    spec = {"localityLbSetting": {"failover": [{"from": "eu", "to": "us"}]}}
    made = program(config("MeshConfig", "istio", spec, "istio-system"), subsets())
    assert made.settings(service(), 9080, "").mesh_locality.failover == {"eu": "us"}
    assert program(subsets()).settings(service(), 9080, "").mesh_locality == MESH_LOCALITY
    found, problems = compiled({"localityLbSetting": {"distribute": [{"from": "*", "to": {}}]}})
    assert found.locality == MESH_LOCALITY
    assert [one.field for one in problems] == ["localityLbSetting.distribute[0].to"]


def virtual_service(*rules):
    route = {"route": [{"destination": {"host": "reviews"}}]}
    http = [{**rule, **route} for rule in rules]
    return config("VirtualService", "reviews", {"hosts": ["reviews"], "http": http})


@pytest.mark.parametrize(
    ("retries", "attempts", "on"),
    [
        (None, 5, RetryOn.SERVER_ERROR),  # the mesh's
        ({"attempts": 2}, 2, DEFAULT_ON),  # a word of one's own, though the default's
        ({"attempts": 0}, 0, RetryOn.NOTHING),
    ],
)
def test_retries_of_the_mesh_hold_where_no_route_says_any(retries, attempts, on):
    policy = {"attempts": 5, "retryOn": "5xx", "perTryTimeout": "2s"}
    mesh = config("MeshConfig", "istio", {"defaultHttpRetryPolicy": policy}, "istio-system")
    rule = {"retries": retries} if retries is not None else {}
    made = program(mesh, virtual_service(rule))
    (route,) = made.table(service(), 9080).routes
    assert (route.retries.attempts, route.retries.on) == (attempts, on)
    (alone,) = program(mesh).table(service(), 9080).routes  # no route at all
    assert (alone.retries.attempts, alone.retries.per_try_s) == (5, 2.0)
    (before,) = program(virtual_service({})).table(service(), 9080).routes
    assert (before.retries.attempts, before.retries.on) == (2, DEFAULT_ON)


def test_the_mesh_can_switch_retries_off():
    mesh = config("MeshConfig", "istio", {"defaultHttpRetryPolicy": {"attempts": 0}})
    (route,) = program(mesh).table(service(), 9080).routes
    assert route.retries.attempts == 0


def test_connections_of_the_mesh_hold_where_no_rule_says_more():
    keepalive = {"time": "30s", "probes": 3}
    spec = {"connectTimeout": "3s", "tcpKeepalive": keepalive, "h2UpgradePolicy": "UPGRADE"}
    mesh = config("MeshConfig", "istio", spec, "istio-system")
    pool = program(mesh).settings(service(), 9080, "").pool
    assert (pool.connect_timeout_s, pool.keepalive, pool.upgrade) == (3, Keepalive(3, 30), True)
    own = {"tcp": {"connectTimeout": "1s"}, "http": {"h2UpgradePolicy": "DO_NOT_UPGRADE"}}
    rule = config(
        "DestinationRule", "r", {"host": "reviews", "trafficPolicy": {"connectionPool": own}}
    )
    pool = program(mesh, rule).settings(service(), 9080, "").pool
    assert (pool.connect_timeout_s, pool.keepalive, pool.upgrade) == (1, Keepalive(3, 30), False)


def test_services_that_take_logs():
    logs, problems = provider("envoyOtelAls", logName="n", logFormat={"labels": {"a": "%PATH%"}})
    assert (problems, logs.protocol, logs.log_name) == ([], LogProtocol.OTLP, "n")
    assert logs.labels == (("a", "%PATH%"),)
    http, _ = provider("envoyHttpAls", additionalRequestHeadersToLog=["X-A"])
    assert (http.log_name, http.request_headers) == ("http_envoy_accesslog", ("x-a",))
    assert provider("envoyTcpAls")[0].log_name == "tcp_envoy_accesslog"
    assert provider("envoyOtelAls", port=0)[0] is None
