"""What a service that counts is asked, and what its answer means."""

from __future__ import annotations

import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from waypoint.core.providers import Address
from waypoint.core.rate_limit import Found, GlobalLimit, Override
from waypoint.core.rate_limit_wire import answer, failed, question

AT = Address("rls", 8081)
LIMIT = GlobalLimit(domain="shop", at=AT, tell=True, exhausted=True)
ANY = (("k", "v"),)


def test_a_question():
    found = [Found(ANY), Found(ANY, 3, Override(9, 3))]
    asked = rls_pb2.RateLimitRequest.FromString(question("shop", found))
    plain, full = asked.descriptors
    assert (asked.domain, asked.hits_addend) == ("shop", 0)  # 0 means 1
    assert not plain.HasField("hits_addend")
    assert not plain.HasField("limit")
    assert full.hits_addend.value == 3
    assert (full.limit.requests_per_unit, full.limit.unit) == (9, 3)


def status(remaining, per_unit=0, unit=0, name="", reset_s=0):
    one = rls_pb2.RateLimitResponse.DescriptorStatus(limit_remaining=remaining)
    if per_unit:
        one.current_limit.requests_per_unit, one.current_limit.unit = per_unit, unit
        one.current_limit.name = name
    one.duration_until_reset.seconds = reset_s
    return one


@pytest.mark.parametrize(
    ("statuses", "limit", "remaining", "reset"),
    [
        ([status(3, 10, 1)], "10, 10;w=1", "3", "0"),
        ([status(3, 10, 2, "per-ip", 5), status(1, 1000, 3, "", 9)],
         '1000, 10;w=60;name="per-ip", 1000;w=3600', "1", "9"),
        ([status(0), status(7, 50, 4)], "50, 50;w=86400", "7", "0"),
        ([status(7, 50, 7)], "50, 50;w=604800", "7", "0"),
        ([status(7, 50, 5)], "50, 50;w=2592000", "7", "0"),
        ([status(7, 50, 0)], "50", "7", "0"),  # a unit that nobody knows has no window
    ],
)  # fmt: skip
def test_what_clients_are_told(statuses, limit, remaining, reset):
    raw = rls_pb2.RateLimitResponse(overall_code=1, statuses=statuses).SerializeToString()
    refused, response, *_ = answer(LIMIT, raw)
    assert refused is None
    assert dict(response) == {
        "x-ratelimit-limit": limit,
        "x-ratelimit-remaining": remaining,
        "x-ratelimit-reset": reset,
    }
    raw = rls_pb2.RateLimitResponse(overall_code=1, statuses=[status(3)]).SerializeToString()
    assert answer(LIMIT, raw) == (None, (), (), {})


@pytest.mark.parametrize("grpc", [False, True])
def test_a_refusal(grpc):
    found = rls_pb2.RateLimitResponse(overall_code=2, raw_body=b"slow down")
    found.response_headers_to_add.add(key="X-Who", value="counter")
    limit = GlobalLimit(domain="shop", at=AT, exhausted=True, headers=(("x-own", "1"),))
    refused, response, upstream, _ = answer(limit, found.SerializeToString(), grpc=grpc)
    assert (response, upstream) == ((), ())
    assert (refused.status, refused.body, refused.flag) == (429, "slow down", "RL")
    expected = {"x-envoy-ratelimited": "true", "x-who": "counter", "x-own": "1"}
    assert dict(refused.headers) == expected | ({"grpc-status": "8"} if grpc else {})


def test_what_is_not_enforced_passes_and_is_told():
    found = rls_pb2.RateLimitResponse(overall_code=2, statuses=[status(0, 10, 1)])
    found.request_headers_to_add.add(key="X-Over", value="yes")
    found.dynamic_metadata["left"] = 0
    refused, response, upstream, noted = answer(LIMIT, found.SerializeToString(), enforced=False)
    assert refused is None
    assert dict(response)["x-ratelimit-remaining"] == "0"
    assert (upstream, noted) == ((("x-over", "yes"),), {"left": 0})


def test_an_answer_that_is_none():
    with pytest.raises(ValueError, match="cannot be read"):
        answer(LIMIT, b"\xff\xff")
    refused = failed(LIMIT)
    assert (refused.status, refused.flag, refused.details) == (500, "RLSE", "rate_limiter_error")
