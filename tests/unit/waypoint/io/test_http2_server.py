"""HTTP/2 clients through a whole waypoint; the peers are the h2 library."""

from __future__ import annotations

import gc

import h2.settings
import pytest
import trio

from ambient.api.service import AppProtocol, Port
from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.io.http2_peers import GET, http2_app, http2_caller
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.sample import policy, service, subsets, to_subset, virtual_service
from waypoint.core.http2 import Http2
from waypoint.io.duplex import abort
from waypoint.io.http2_link import Flow, Http2Link
from waypoint.io.http2_server import Http2Exchange

BOTH = ("127.0.1.1", "127.0.1.2")
MB = 1 << 20


def declare(mesh, protocol: AppProtocol) -> None:
    changed = service(ports=(Port(9080, 9080, protocol),))
    mesh.state.apply(ADDRESS_TYPE, {str(changed.key): changed})


async def http2_apps(mesh, protocol=AppProtocol.HTTP2, **more) -> None:
    declare(mesh, protocol)
    for ip, version in zip(BOTH, ("v1", "v2"), strict=True):
        await mesh.app(ip, http2_app(version, **more))


@pytest.mark.parametrize(
    "protocol", [AppProtocol.HTTP2, AppProtocol.GRPC, AppProtocol.UNKNOWN, AppProtocol.HTTP11]
)
async def test_http2_is_found_on_every_http_port(protocol):
    async with rig(apps=False) as mesh:
        declare(mesh, protocol)
        http1 = protocol is AppProtocol.HTTP11
        for ip in BOTH:
            await mesh.app(ip, http_app("v1") if http1 else http2_app("v1"))
        caller = await http2_caller(mesh)
        answer = await caller.get("/reviews/1", user_agent="me")
        assert answer.status == 200
        assert answer.headers["server"] == "istio-envoy"
        assert answer.headers["x-version"] == "v1"
        seen = answer.json
        assert seen["headers"]["user-agent"] == "me"
        if not http1:
            assert seen["headers"][":path"] == "/reviews/1"
            assert seen["headers"][":authority"] == "reviews:9080"
            assert "host" not in seen["headers"]
            assert answer.trailers == {"x-sum": "7"}


async def test_an_http1_client_reaches_an_http2_application():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await mesh.caller()
        answer = await caller.get("/x", user_agent="me")
        assert (answer.status, answer.json["headers"][":path"]) == (200, "/x")
        posted = await caller.get("/y", method="POST", body=b"abc")
        assert posted.json["size"] == 3
        assert (await caller.get("/z", method="HEAD")).body == b""
        assert (await caller.get("/")).status == 200
        assert sum(mesh.calls.values()) <= 2  # one shared connection for each endpoint


async def test_requests_on_one_connection_spread_over_endpoints():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        mesh.configure(
            subsets(), virtual_service({"route": [to_subset("v1", 50), to_subset("v2", 50)]})
        )
        seen = [(await caller.get()).headers["x-version"] for _ in range(20)]
        assert set(seen) == {"v1", "v2"}
        assert mesh.calls == {"127.0.1.1": 1, "127.0.1.2": 1}


async def test_many_requests_at_once():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        ids = [await caller.send({":path": f"/{number}"}, b"x" * 100) for number in range(100)]
        for number, stream_id in enumerate(ids):
            answer = await caller.answer(stream_id)
            assert answer.json["headers"][":path"] == f"/{number}"
            assert answer.json["size"] == 100
        assert not mesh.service.upstreams.active


async def test_bodies_and_trailers_pass():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        sent = await caller.send(
            {":method": "POST", "te": "trailers"}, b"abc", trailers=[("x-check", "9")]
        )
        answer = await caller.answer(sent)
        assert answer.json["size"] == 3
        assert answer.json["trailers"] == {"x-check": "9"}
        assert answer.json["headers"]["te"] == "trailers"
        hints = await caller.get("/early-hints")
        assert [head[":status"] for head in hints.informational] == ["103"]
        only = await caller.get("/trailers-only")
        assert only.headers["grpc-status"] == "5"
        assert only.body == b""
        head = await caller.answer(await caller.send({":method": "HEAD"}))
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0


async def test_cookies_are_one_field_for_the_application():
    async with rig() as mesh:
        caller = await http2_caller(mesh)
        sent = await caller.send([*GET.items(), ("cookie", "a=1"), ("cookie", "b=2")])
        assert (await caller.answer(sent)).json["headers"]["cookie"] == "a=1; b=2"


async def test_policy_and_routes_see_http2_requests():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        rule = {"to": [{"operation": {"methods": ["DELETE"], "paths": ["/admin*"]}}]}
        mesh.configure(policy([rule], "DENY"))
        caller = await http2_caller(mesh)
        refused = await caller.answer(await caller.send({":method": "DELETE", ":path": "/admin/x"}))
        assert (refused.status, refused.body) == (403, b"RBAC: access denied")
        assert (await caller.get("/admin/x")).status == 200
        grpc = await caller.answer(
            await caller.send(
                {
                    ":method": "DELETE",
                    ":path": "/admin",
                    "content-type": "application/grpc+proto",
                    "te": "trailers",
                }
            )
        )
        assert grpc.status == 200
        assert grpc.headers["grpc-status"] == "7"
        assert grpc.headers["grpc-message"] == "RBAC: access denied"
        assert grpc.headers["content-type"] == "application/grpc"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refused", 503, b"remote refused stream reset"),
        ("/reset", 503, b"remote reset"),
        ("/internal", 503, b"remote reset"),
        ("/lies", 200, None),
    ],
)
async def test_resets_of_an_application(path, status, body):
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        answer = await caller.get(path)
        assert answer.status == status
        if body is None:  # a content-length that is not kept cuts the response short
            assert answer.reset == 2
        else:
            assert body in answer.body
        assert (await caller.get("/next")).status == 200


async def test_a_response_that_breaks_off_is_cut_short():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        answer = await caller.get("/cut")
        assert answer.body == b"abc"
        assert answer.reset == 2  # INTERNAL_ERROR
        assert (await caller.get("/next")).status == 200
        stream = await mesh.open()
        await stream.send_all(b"GET /cut HTTP/1.1\r\nhost: x\r\n\r\n")
        text = bytearray()

        async def read() -> None:
            while data := await stream.receive_some():
                text.extend(data)

        with pytest.raises(trio.BrokenResourceError):
            await read()
        assert b"abc" in text


async def test_an_application_that_leaves_gets_no_more_requests():
    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        mesh.configure(subsets(), virtual_service({"route": [to_subset("v1")]}))
        caller = await http2_caller(mesh)
        assert (await caller.get("/")).status == 200
        assert (await caller.get("/goaway")).status == 200  # it was not looked at: sent again
        assert (await caller.get("/")).status == 200
        assert mesh.calls["127.0.1.1"] == 2


async def test_an_application_that_speaks_http1_on_an_http2_port():
    async def http1(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.HTTP2)
        for ip in BOTH:
            await mesh.app(ip, http1)
        answer = await (await http2_caller(mesh)).get()
        assert answer.status == 502
        assert b"protocol error" in answer.body


async def test_a_client_that_cancels_frees_the_application():
    resets: list[int] = []
    async with rig(apps=False) as mesh:
        seen: list = []
        await http2_apps(mesh, resets=resets, seen=seen)
        caller = await http2_caller(mesh)
        sent = await caller.send({":path": "/silent"})
        while not seen:
            await trio.sleep(0.01)
        caller.h2.reset_stream(sent, 8)
        await caller.flush()
        while not resets:
            await trio.sleep(0.01)
        assert resets == [8]  # CANCEL
        assert (await caller.get("/next")).status == 200


async def test_a_client_that_disappears_frees_the_application():
    resets: list[int] = []
    async with rig(apps=False) as mesh:
        seen: list = []
        await http2_apps(mesh, resets=resets, seen=seen)
        caller = await http2_caller(mesh)
        await caller.send({":path": "/silent"})
        while not seen:
            await trio.sleep(0.01)
        caller.stream.reset()
        while not resets:
            await trio.sleep(0.01)


async def test_large_bodies_stream_and_slow_readers_stop_the_sender():
    async with rig(apps=False) as mesh:
        sent = 0

        async def endless(stream):
            nonlocal sent
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                await stream.send_all(b"x" * MB)
                sent += MB

        for ip in BOTH:
            await mesh.app(ip, endless)
        caller = await http2_caller(mesh)
        caller.credit = False
        stream_id = await caller.send()
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            await trio.sleep(0.5)
        assert len(caller.answers[stream_id].body) == 65_535
        assert sent < 64 * MB
        # the connection's window is used up, so that the other stream waits for credit too
        caller.h2.acknowledge_received_data(65_535, stream_id)
        caller.credit = True
        await caller.flush()
        await caller.until(lambda: len(caller.answers[stream_id].body) > 4 * MB)
        caller.h2.reset_stream(stream_id)
        await caller.flush()


async def test_uploads_stop_when_the_application_does_not_read():
    async with rig(apps=False) as mesh:

        async def deaf(stream):
            await trio.sleep_forever()

        for ip in BOTH:
            await mesh.app(ip, deaf)
        caller = await http2_caller(mesh)
        stream_id = await caller.send({":method": "POST"}, b"", end=False)
        await caller.until(
            lambda: caller.h2.remote_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] > 65_535
        )
        total = 0
        with trio.move_on_after(1.5):
            while True:
                room = min(caller.h2.local_flow_control_window(stream_id), 16_384)
                if room > 0:
                    caller.h2.send_data(stream_id, b"x" * room)
                    total += room
                    await caller.flush()
                else:
                    await trio.sleep(0.01)
        assert total < 32 * MB


async def test_draining_says_goodbye_and_finishes():
    go = trio.Event()

    async def slow(stream):
        await stream.receive_some()
        await go.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, slow)
        idle, busy = await http2_caller(mesh), await http2_caller(mesh)
        await busy.send()
        while not mesh.calls:
            await trio.sleep(0.01)
        mesh.service.drain()
        await busy.until(lambda: busy.goaway is not None)
        while not idle.closed:
            await trio.sleep(0.01)
        go.set()
        while not busy.closed:
            await trio.sleep(0.01)
        assert b"\0\0\x02\0\x01\0\0\0\x01ok" in busy.behind_goaway  # DATA, END_STREAM


async def test_one_request_that_crashes_does_not_end_the_others():
    async with rig() as mesh:
        caller = await http2_caller(mesh)
        draw = mesh.service.request_id

        def crashing() -> str:
            raise ZeroDivisionError

        mesh.service.request_id = crashing
        answer = await caller.get()
        assert answer.reset == 2  # INTERNAL_ERROR
        mesh.service.request_id = draw
        assert (await caller.get()).status == 200


async def test_a_connect_has_no_route_and_the_connection_goes_on():
    async with rig() as mesh:
        caller = await http2_caller(mesh)
        head = [(":method", "CONNECT"), (":authority", "reviews:9080")]
        answer = await caller.answer(await caller.send(head, end=True))
        assert answer.status == 404
        assert (await caller.get()).status == 200


async def test_requests_leave_nothing_for_the_collector():
    def left():
        return [one for one in gc.get_objects() if type(one) in (Http2Exchange, Flow)]

    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        caller = await http2_caller(mesh)
        await caller.get()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await caller.answer(await caller.send(GET | {":method": "POST"}, b"body"))
            with trio.fail_after(10):
                while len(left()) > 2:  # a connection's reader knows its last stream
                    await trio.sleep(0.01)
        finally:
            gc.enable()


async def test_connections_leave_nothing_for_the_collector():
    def left():
        return [one for one in gc.get_objects() if isinstance(one, Http2 | Http2Link)]

    async with rig(apps=False) as mesh:
        await http2_apps(mesh)
        gc.collect()
        before = len(left())
        gc.disable()
        try:
            for _ in range(3):
                caller = await http2_caller(mesh)
                assert (await caller.get()).status == 200
                abort(caller.stream)
            assert len(left()) > before
            with trio.fail_after(10):
                while len(left()) > before:
                    mesh.upstreams.close()
                    await trio.sleep(0.01)
        finally:
            gc.enable()
