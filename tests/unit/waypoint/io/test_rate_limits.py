"""Requests too many, through a waypoint."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from envoy.service.ratelimit.v3 import rls_pb2

from ambient.api.service import AppProtocol
from tests.unit.waypoint.core.test_rate_limit import (
    GLOBAL,
    TARGETS,
    bucket,
    http_filter,
    local,
    on_route,
)
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_safeguards import AUTHZ_AT, authz_service, grpc_server, register
from tests.unit.waypoint.sample import config, policy


def rates(*patches):
    return config("EnvoyFilter", "rates", {"targetRefs": TARGETS, "configPatches": list(patches)})


async def test_a_local_limit_is_shared_by_all_connections():
    async with rig() as made:
        made.configure(rates(http_filter(local(2, enable_x_ratelimit_headers="DRAFT_VERSION_03"))))
        answers = [await (await made.caller()).get() for _ in range(3)]
    assert [one.status for one in answers] == [200, 200, 429]
    assert [one.headers["x-ratelimit-remaining"] for one in answers] == ["1", "0", "0"]
    assert answers[2].body == b"local_rate_limited"
    assert "x-envoy-ratelimited" not in answers[2].headers  # of global limits only


async def test_a_limit_that_was_removed_limits_nothing():
    async with rig() as made:
        made.configure(rates(http_filter(local(1))))
        caller = await made.caller()
        assert [(await caller.get()).status for _ in range(2)] == [200, 429]
        made.configure(rates(http_filter(local(1))), policy([{}], name="any"))
        assert (await caller.get()).status == 429
        made.configure()
        assert (await caller.get()).status == 200


async def test_rules_of_a_port_serve_local_limits_that_have_none():
    gold = {"entries": [{"key": "team", "value": "gold"}], "token_bucket": bucket(1)}
    async with rig() as made:
        made.configure(rates(http_filter(local(9, descriptors=[gold])), COUNTED[1]))
        caller = await made.caller()
        teams = ("gold", "gold", "blue")
        assert [(await caller.get(x_team=team)).status for team in teams] == [200, 429, 200]


async def test_a_limit_that_is_not_enforced_tells_the_application():
    mark = {"header": {"key": "x-over", "value": "yes"}}
    off = local(1, filter_enforced=None, request_headers_to_add_when_not_enforced=[mark])
    async with rig() as made:
        made.configure(rates(http_filter(off)))
        caller = await made.caller()
        seen = [(await caller.get()).json["headers"].get("x-over") for _ in range(2)]
    assert seen == [None, "yes"]


async def test_a_limit_that_is_not_enabled_limits_nothing():
    async with rig() as made:
        made.configure(rates(http_filter({**local(1), "filter_enabled": None})))
        caller = await made.caller()
        assert [(await caller.get()).status for _ in range(3)] == [200, 200, 200]


async def test_what_policy_refuses_costs_no_token():
    denied = policy([{"to": [{"operation": {"paths": ["/no"]}}]}], "DENY")
    async with rig() as made:
        made.configure(rates(http_filter(local(1))), denied)
        caller = await made.caller()
        assert [(await caller.get(path)).status for path in ("/no", "/no", "/", "/")] == [
            403, 403, 200, 429,
        ]  # fmt: skip


def counting(most, seen, status=0):
    """A rate limit service that lets ``most`` pass."""
    left = most

    def answer(path, raw):
        nonlocal left
        seen.append(rls_pb2.RateLimitRequest.FromString(raw))
        left -= 1
        made = rls_pb2.RateLimitResponse()
        made.overall_code = 1 if left >= 0 else 2
        made.response_headers_to_add.add(key="X-Counted", value=str(most - left))
        return status, made.SerializeToString()

    return grpc_server(answer, [])


COUNTED = (
    http_filter(GLOBAL | {"rate_limit_service": {"grpc_service": {"envoy_grpc": {
        "cluster_name": "outbound|9000||authz.shop.svc.cluster.local"}}}, "timeout": "5s"},
        "envoy.filters.http.ratelimit"),
    on_route({"rate_limits": [{"actions": [
        {"request_headers": {"header_name": "x-team", "descriptor_key": "team"}}]}]}),
)  # fmt: skip


async def test_a_service_counts_for_all_waypoints():
    seen = []
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, counting(1, seen), 9000)
        made.configure(rates(*COUNTED))
        caller = await made.caller()
        first, second = [await caller.get(x_team="blue") for _ in range(2)]
        assert (await caller.get()).status == 200  # no descriptor: nobody is asked
    assert (first.status, first.headers["x-counted"]) == (200, "1")
    assert (second.status, second.body, second.headers["x-counted"]) == (429, b"", "2")
    entry = seen[0].descriptors[0].entries[0]
    assert (seen[0].domain, entry.key, entry.value, len(seen)) == ("shop", "team", "blue", 2)


@pytest.mark.parametrize(("deny", "status"), [(True, 500), (False, 200)])
async def test_a_service_that_fails(deny, status):
    patches = list(COUNTED)
    filter_ = GLOBAL | {"failure_mode_deny": deny, "timeout": "1s"}
    patches[0] = http_filter(filter_, "envoy.filters.http.ratelimit")
    async with rig() as made:
        made.configure(rates(*patches))
        caller = await made.caller()
        assert (await caller.get(x_team="blue")).status == status


async def test_a_service_learns_what_an_exchange_has_cost_when_it_is_over():
    seen = []
    team = {"request_headers": {"header_name": "x-team", "descriptor_key": "team"}}
    at_end = {"actions": [team], "apply_on_stream_done": True,
              "hits_addend": {"format": "%BYTES_SENT%"}}  # fmt: skip
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, counting(1, seen), 9000)
        made.configure(rates(COUNTED[0], on_route({"rate_limits": [at_end]})))
        caller = await made.caller()
        got = await caller.get(x_team="blue")
        while not seen:
            await trio.testing.wait_all_tasks_blocked()
    (told,) = seen
    assert told.domain == "shop"
    assert [one.hits_addend.value for one in told.descriptors] == [len(got.body)]


async def test_a_route_with_another_domain_and_no_enforcement():
    seen = []
    per_route = {"domain": "route", "rate_limits": [{"actions": [{"remote_address": {}}]}]}
    patches = [
        COUNTED[0],
        on_route({"typed_per_filter_config": {"envoy.filters.http.ratelimit": per_route}}),
    ]
    typed = patches[0]["patch"]["value"]["typed_config"]["value"]
    lax = http_filter(
        typed | {"filter_enforced": {"default_value": {"numerator": 0}}},
        "envoy.filters.http.ratelimit",
    )
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, counting(0, seen), 9000)
        made.configure(rates(*patches))
        caller = await made.caller()
        assert (await caller.get()).status == 429
        made.configure(rates(lax, patches[1]))
        assert (await caller.get()).status == 200
    assert [one.domain for one in seen] == ["route", "route"]
    assert seen[0].descriptors[0].entries[0].key == "remote_address"


def bodies(most):
    spec = {"name": "envoy.filters.http.buffer", "typed_config": {"max_request_bytes": most}}
    return {"applyTo": "HTTP_FILTER", "patch": {"operation": "INSERT_BEFORE", "value": spec}}


@pytest.mark.parametrize(
    ("size", "chunked", "status"),
    [(10, False, 200), (11, False, 413), (10, True, 200), (11, True, 413)],
)
async def test_a_limit_of_bodies(size, chunked, status):
    async with rig() as made:
        made.configure(rates(bodies(10)))
        caller = await made.caller()
        more = {"transfer_encoding": "chunked"} if chunked else {}
        got = await caller.get("/", "POST", body=b"x" * size, **more)
        assert got.status == status
        if status == 200:
            # What came in chunks goes on with its length, which is known by now.
            assert (got.json["size"], got.json["headers"]["content-length"]) == (size, str(size))
        else:
            assert got.body == b"Payload Too Large"
        assert (await caller.get()).status == 200


async def test_a_client_that_waits_is_told_to_send_the_body_that_we_hold():
    async with rig() as made:
        made.configure(rates(bodies(10)))
        stream = await made.open()
        await stream.send_all(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"abc")
        assert b'"size": 3' in await stream.receive_some()
