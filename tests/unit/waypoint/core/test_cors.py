"""Preflights and the headers of responses, for both APIs."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import request
from waypoint.core.cors import compile_cors, compile_gateway_cors
from waypoint.core.message import Headers, Response
from waypoint.core.objects import UnusableError

SPEC = {
    "allowOrigins": [{"exact": "https://a.com"}, {"prefix": "https://b."}, {"regex": ".*c"}],
    "allowMethods": ["POST", "GET"],
    "allowHeaders": ["x-a", "x-b"],
    "exposeHeaders": ["x-c"],
    "maxAge": "24h",
    "allowCredentials": True,
}


def preflight(origin="https://a.com", **more):
    asks = {"access-control-request-method": "DELETE", **more}
    return request("OPTIONS", headers={"origin": origin, **asks})


def test_a_preflight_is_answered_as_configured():
    reply = compile_cors(SPEC, "cors").answer(preflight())
    assert (reply.status, reply.details) == (200, "cors_response")
    assert dict(reply.headers) == {
        "access-control-allow-origin": "https://a.com",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "POST,GET",
        "access-control-allow-headers": "x-a,x-b",
        "access-control-max-age": "86400",
        "access-control-expose-headers": "x-c",
    }


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.com", True),
        ("https://a.com.evil", False),
        ("https://b.anything", True),
        ("abc", True),
        ("https://d", False),
        ("", False),
    ],
)
def test_origins(origin, allowed):
    policy = compile_cors(SPEC, "cors")
    admission = policy.admission(request(headers={"origin": origin}))
    assert (admission is not None) is allowed
    if admission is not None:
        response = Response(200, Headers())
        admission.on_response(response)
        assert dict(response.headers)["access-control-allow-origin"] == origin
        assert dict(response.headers)["access-control-expose-headers"] == "x-c"


@pytest.mark.parametrize(
    ("unmatched", "answered"), [("UNSPECIFIED", False), ("FORWARD", False), ("IGNORE", True)]
)
def test_preflights_from_elsewhere(unmatched, answered):
    policy = compile_cors({**SPEC, "unmatchedPreflights": unmatched}, "cors")
    reply = policy.answer(preflight("https://evil"))
    assert (reply is not None) is answered
    assert reply is None or not reply.headers


def test_other_requests_are_not_answered():
    policy = compile_cors(SPEC, "cors")
    assert policy.answer(request("OPTIONS", headers={"origin": "https://a.com"})) is None
    assert policy.answer(request("GET", headers={"origin": "https://a.com"})) is None


def test_any_origin():
    policy = compile_cors({"allowOrigins": [{"exact": "*"}]}, "cors")
    reply = policy.answer(preflight("https://x"))
    assert reply.headers == (("access-control-allow-origin", "https://x"),)


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("*", "https://x", True),
        ("https://*.shop.example", "https://a.shop.example", True),
        ("https://*.shop.example", "https://a.b.shop.example", True),
        ("https://*.shop.example", "https://shop.example", False),
        ("https://*.shop.example", "http://a.shop.example", False),
        ("https://shop.example", "https://shop.example", True),
    ],
)
def test_gateway_api_origins(pattern, origin, allowed):
    policy = compile_gateway_cors({"allowOrigins": [pattern]}, "cors")
    reply = policy.answer(preflight(origin))
    assert reply is not None  # preflights are never forwarded
    assert bool(reply.headers) is allowed
    if allowed:
        assert dict(reply.headers)["access-control-max-age"] == "5"


def test_a_star_is_not_said_to_requests_with_credentials():
    spec = {"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]}
    plain = compile_gateway_cors(spec, "cors").answer(preflight())
    assert dict(plain.headers)["access-control-allow-methods"] == "*"
    policy = compile_gateway_cors({**spec, "allowCredentials": True}, "cors")
    reply = policy.answer(preflight(**{"access-control-request-headers": "x-q"}))
    assert dict(reply.headers)["access-control-allow-methods"] == "DELETE"
    assert dict(reply.headers)["access-control-allow-headers"] == "x-q"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"maxAge": "x"}, "cors.maxAge"),
        ({"allowOrigins": [{"regex": "("}]}, "cors.allowOrigins"),
        ({"unmatchedPreflights": "MAYBE"}, "cors.unmatchedPreflights"),
        ({"allowMethods": "GET"}, "cors.allowMethods"),
    ],
)
def test_what_cannot_be_used_is_named(spec, field):
    with pytest.raises(UnusableError, match=field):
        compile_cors(spec, "cors")
