"""Copies go out beside the request, and the request never waits for them."""

from __future__ import annotations

import trio

from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.sample import subsets, to_subset, virtual_service

TO_V1 = {"route": [to_subset("v1")]}
COPY = {"mirrors": [{"destination": {"host": "reviews", "subset": "v2"}}]}
V1, V2 = "127.0.1.1", "127.0.1.2"


async def until(condition):
    while not condition():
        await trio.sleep(0.01)


async def test_a_copy_is_the_same_request():
    seen = []
    async with rig(apps=False) as mesh:
        mesh.configure(subsets(), virtual_service({**COPY, **TO_V1}))
        await mesh.app(V1, http_app("v1"))
        await mesh.app(V2, http_app("v2", seen))
        answer = await (await mesh.caller()).get("/a?b", method="POST", body=b"x" * 300_000)
        assert answer.json["version"] == "v1"
        await until(lambda: seen)
        (copy,) = seen
        assert (copy["method"], copy["target"], copy["size"]) == ("POST", "/a?b", 300_000)
        assert copy["headers"]["x-request-id"] == answer.json["headers"]["x-request-id"]
        assert copy["headers"]["host"] == "reviews:9080"


async def test_a_share_of_nothing_copies_nothing():
    seen = []
    async with rig(apps=False) as mesh:
        none = [{**COPY["mirrors"][0], "percentage": {"value": 0}}]
        mesh.configure(subsets(), virtual_service({"mirrors": none, **TO_V1}))
        await mesh.app(V1, http_app("v1"))
        await mesh.app(V2, http_app("v2", seen))
        caller = await mesh.caller()
        for _ in range(5):
            await caller.get()
        assert not mesh.calls[V2]


async def test_nobody_waits_for_a_copy():
    async def deaf(stream):
        await trio.sleep_forever()

    async with rig(apps=False) as mesh:
        mesh.configure(subsets(), virtual_service({**COPY, "timeout": "20s", **TO_V1}))
        await mesh.app(V1, http_app("v1"))
        await mesh.app(V2, deaf)
        caller = await mesh.caller()
        for _ in range(3):
            answer = await caller.get(method="POST", body=b"x" * (8 << 20))
            assert answer.json["size"] == 8 << 20


async def test_a_copy_that_leads_nowhere_does_no_harm():
    async with rig(apps=False) as mesh:
        nobody = {"mirror": {"host": "nobody"}}
        mesh.configure(subsets(), virtual_service({**nobody, **COPY, **TO_V1}))
        await mesh.app(V1, http_app("v1"))
        caller = await mesh.caller()
        for _ in range(3):
            assert (await caller.get()).status == 200


async def test_a_client_that_goes_away_ends_the_copy():
    ended = trio.Event()

    async def reading(stream):
        while await stream.receive_some():
            pass
        ended.set()

    async with rig(apps=False) as mesh:
        mesh.configure(subsets(), virtual_service({**COPY, **TO_V1}))
        await mesh.app(V1, http_app("v1"))
        await mesh.app(V2, reading)
        stream = await mesh.open()
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
        await until(lambda: mesh.calls[V2])
        stream.reset()
        await ended.wait()
