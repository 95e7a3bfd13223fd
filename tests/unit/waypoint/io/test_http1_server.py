"""Requests through a whole waypoint: tunnel in, routes and policy, tunnel out."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from ambient.hbone.core.errors import ConnectRefused
from tests.unit.waypoint.io.rig import WAYPOINT_ID, rig
from tests.unit.waypoint.sample import policy, subsets, to_subset, virtual_service


async def test_a_request_goes_through_both_tunnels():
    async with rig() as mesh:
        caller = await mesh.caller()
        answer = await caller.get("/reviews/1?x=/../y", user_agent="me")
        assert answer.status == 200
        assert answer.json["target"] == "/reviews/1?x=/../y"
        assert answer.json["headers"]["host"] == "reviews:9080"
        assert answer.json["headers"]["x-forwarded-proto"] == "http"
        assert len(answer.json["headers"]["x-request-id"]) == 36
        assert answer.headers["server"] == "istio-envoy"
        assert answer.headers["x-envoy-upstream-service-time"].isdigit()
        assert mesh.peers == {WAYPOINT_ID}


async def test_ninety_to_ten():
    async with rig() as mesh:
        mesh.configure(
            subsets(), virtual_service({"route": [to_subset("v1", 90), to_subset("v2", 10)]})
        )
        caller = await mesh.caller()
        seen = Counter([(await caller.get()).headers["x-version"] for _ in range(500)])
        assert 425 <= seen["v1"] <= 475
        assert seen.total() == 500
        # exchanges reuse connections: one per endpoint, because one client asks one at a time
        assert mesh.tunnels == {"127.0.1.1": 1, "127.0.1.2": 1}


async def test_delete_is_denied_while_get_passes():
    async with rig() as mesh:
        mesh.configure(policy([{"to": [{"operation": {"methods": ["DELETE"]}}]}], "DENY"))
        caller = await mesh.caller()
        refused = await caller.get("/", method="DELETE")
        assert (refused.status, refused.body) == (403, b"RBAC: access denied")
        assert (await caller.get()).status == 200
        assert sum(mesh.calls.values()) == 1


async def test_a_connection_survives_a_change_of_configuration():
    async with rig() as mesh:
        caller = await mesh.caller()
        assert (await caller.get()).status == 200
        mesh.configure(subsets(), virtual_service({"route": [to_subset("v2")]}))
        assert {(await caller.get()).headers["x-version"] for _ in range(5)} == {"v2"}
        mesh.configure(virtual_service({"directResponse": {"status": 299}}))
        assert (await caller.get()).status == 299


async def test_pipelined_requests_are_answered_in_order():
    async with rig() as mesh:
        stream = await mesh.open()
        await stream.send_all(
            b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(5))
            + b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        text = b""
        while data := await stream.receive_some():
            text += data
        targets = [part.partition(b'"')[0] for part in text.split(b'"target": "')[1:]]
        assert targets == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/last"]


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\nhost: x\n\n", 400),
        (b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nhost: x\r\n\r\n", 426),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_bad_requests_are_answered_and_the_connection_ends(wire, status):
    async with rig() as mesh:
        stream = await mesh.open()
        await stream.send_all(wire)
        text = b""
        while data := await stream.receive_some():
            text += data
        assert text.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in text


async def test_only_bound_destinations_are_served():
    async with rig() as mesh:
        for authority in ("10.0.0.3:9080", "10.96.0.99:80", "10.96.0.10:81", "nobody.shop:80"):
            with pytest.raises(ConnectRefused) as refused:
                await mesh.open(authority)
            assert refused.value.status == 404
        stream = await mesh.open("reviews.shop.svc.cluster.local:9080")
        await stream.aclose()


async def test_draining_ends_idle_connections_and_finishes_requests():
    async with rig(apps=False) as mesh:
        go = trio.Event()

        async def slow(stream):
            await stream.receive_some()
            await go.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        for ip in ("127.0.1.1", "127.0.1.2"):
            await mesh.app(ip, slow)
        go.set()
        idle, busy = await mesh.caller(), await mesh.caller()
        assert (await idle.get()).body == b"ok"
        go = trio.Event()
        await busy.send()
        while sum(mesh.calls.values()) < 2:
            await trio.sleep(0.01)
        mesh.service.drain()
        assert await idle.stream.receive_some() == b""
        go.set()
        late = await mesh.caller()  # clients learn only bit by bit that we leave
        for answer in (await busy.receive(), await late.get()):
            assert (answer.body, answer.headers["connection"]) == (b"ok", "close")
