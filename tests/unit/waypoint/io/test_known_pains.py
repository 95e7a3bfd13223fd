"""What users of other meshes suffer from, one test for each."""

from __future__ import annotations

import contextlib
from itertools import count

import h11
import trio

from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.io.rig import http_app, read_request, rig
from tests.unit.waypoint.sample import CURL, subsets, to_subset, virtual_service, workload
from waypoint.core.program import Program

BOTH = ("127.0.1.1", "127.0.1.2")


def keep_alive_app(idle_s: float):
    """Closes connections that were idle for so long, without a word, as servers do."""

    async def app(stream):
        http = h11.Connection(h11.SERVER)
        while True:
            with trio.move_on_after(idle_s) as idle:
                request, body, _ = await read_request(http, stream)
            if idle.cancelled_caught or request is None:
                return
            fields = [("content-length", str(len(body)))]
            wire = http.send(h11.Response(status_code=200, headers=fields))
            wire += http.send(h11.Data(data=body)) + (http.send(h11.EndOfMessage()) or b"")
            await stream.send_all(wire)
            http.start_next_cycle()

    return app


async def test_pain_15_no_503_from_idle_pool_races():
    """A server closes idle connections just when the next request comes; also for POST, which
    nobody may send twice."""
    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, keep_alive_app(1.2))
        statuses: list[int] = []

        async def client(number: int) -> None:
            caller = await mesh.caller()
            for turn in range(4):
                answer = await caller.get("/", method="POST", body=b"x" * 10)
                statuses.append(answer.status)
                await trio.sleep(1.15 + 0.005 * ((number + 7 * turn) % 20))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client, number)
        assert statuses == [200] * 80


async def test_pain_14_no_503_during_a_roll_out():
    """Pods are replaced one by one; the control plane says so late, when they are gone already."""
    async with rig(apps=False) as mesh:
        scopes = {ip: await mesh.app(ip, http_app("v1")) for ip in BOTH}
        statuses: list[int] = []
        done = trio.Event()

        async def client(method: str) -> None:
            caller = await mesh.caller()
            while not done.is_set():
                answer = await caller.get("/", method=method)
                statuses.append(answer.status)
                await trio.sleep(0.005)

        async def more_answers() -> None:
            many = len(statuses) + 20
            while len(statuses) < many:
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            for method in ("GET", "PUT", "GET", "DELETE"):
                nursery.start_soon(client, method)
            fresh = count(3)
            for old in BOTH:
                new = f"127.0.1.{next(fresh)}"
                await mesh.app(new, http_app("v2"))
                await mesh.ztunnel(new)
                pod = workload(f"reviews-{new}", new, "v2")
                mesh.state.apply(ADDRESS_TYPE, {pod.uid: pod})
                await more_answers()
                scopes[old].cancel()  # all its connections end, busy ones too
                await more_answers()
                gone = f"reviews-v{old[-1]}"
                mesh.state.apply(ADDRESS_TYPE, {}, [f"Kubernetes//Pod/shop/{gone}"])
            await more_answers()
            done.set()
        assert set(statuses) == {200}


async def test_no_503_when_configuration_changes_under_load():
    async with rig() as mesh:
        statuses: list[int] = []

        async def client() -> None:
            caller = await mesh.caller()
            for _ in range(60):
                statuses.append((await caller.get()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client)
            for turn in range(30):
                route = {"route": [to_subset("v1" if turn % 2 else "v2")]}
                mesh.configure(subsets(), virtual_service(route))
                await trio.sleep(0.01)
        assert statuses == [200] * 240


async def test_pain_23_the_backend_knows_where_a_request_comes_from():
    """Not the waypoint's address and identity, as it looks below HTTP."""
    async with rig() as mesh:
        answer = await (await mesh.caller()).get()
        assert answer.json["headers"]["x-forwarded-for"] == "127.0.0.1"
        behind = await (await mesh.caller()).get("/", x_forwarded_for="203.0.113.7")
        assert behind.json["headers"]["x-forwarded-for"] == "203.0.113.7"
        assert "x-forwarded-client-cert" not in answer.json["headers"]
        mesh.service.told_by = mesh.service.told_by or CURL._replace(service_account="waypoint")
        told = await (await mesh.caller()).get("/", x_forwarded_client_cert="URI=spiffe://forged")
        assert told.json["headers"]["x-forwarded-client-cert"] == (
            "By=spiffe://cluster.local/ns/shop/sa/waypoint;"
            "URI=spiffe://cluster.local/ns/shop/sa/curl"
        )


async def test_an_endpoint_that_misbehaves_does_not_spoil_the_next_request():
    """Lies about lengths, garbage, bytes behind the response, silence, a reset: each is answered,
    and the client's connection and the next request are sound."""
    wires = {
        "/garbage": b"\x00\x01\x02 what?\r\n\r\n",
        "/twice": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 EVIL\r\n\r\n",
        "/lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "/both": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        "/huge": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        "/status": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
        "/switch": b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "/ends": b"",
    }
    expected = {
        "/garbage": (502, b"protocol error"),
        "/twice": (200, b"ok"),
        "/lengths": (502, b"protocol error"),
        "/both": (502, b"protocol error"),
        "/huge": (502, b"protocol error"),
        "/status": (502, b"protocol error"),
        "/switch": (502, b"protocol error"),
        "/ends": (503, b"connection termination"),
    }

    async def app(stream):
        text = b""
        while b"\r\n\r\n" not in text:
            text += await stream.receive_some()
        path = text.split()[1].decode()
        if path == "/fine":
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")
        else:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(wires[path])

    async with rig(apps=False) as mesh:
        mesh.service.replace_program(Program(mesh.service.own.place))
        for ip in BOTH:
            await mesh.app(ip, app)
        caller = await mesh.caller()
        for path, (status, words) in expected.items():
            answer = await caller.get(path)
            assert (answer.status, words in answer.body) == (status, True), path
            assert (await caller.get("/fine")).body == b"fine", path
