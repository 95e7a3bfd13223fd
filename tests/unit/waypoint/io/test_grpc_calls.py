"""gRPC through a whole waypoint: the library's client in front, its server behind."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial

import grpc
import pytest
import trio

from ambient.api.service import AppProtocol
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneError
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_http2_server import declare
from tests.unit.waypoint.sample import policy, virtual_service
from waypoint.io.dialler import plain

BIG = b"x" * 3_000_000
EVENTS: dict[str, threading.Event] = {}


def unary(request, context):
    seen = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-head", "1"),))
    context.set_trailing_metadata((("x-tail", seen.get("x-ask", "")), ("data-bin", b"\0\xff")))
    return request


def failing(_, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: é%")


def waiting(_, context):
    context.add_callback(EVENTS["cancelled"].set)
    EVENTS["called"].set()
    EVENTS["cancelled"].wait(20)
    return b""


def counting(request, _):
    for number in range(int(request)):
        yield b"%d" % number


METHODS = {
    "/shop.Test/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/shop.Test/Failing": grpc.unary_unary_rpc_method_handler(failing),
    "/shop.Test/Waiting": grpc.unary_unary_rpc_method_handler(waiting),
    "/shop.Test/Counting": grpc.unary_stream_rpc_method_handler(counting),
    "/shop.Test/Sum": grpc.stream_unary_rpc_method_handler(
        lambda requests, _: b"%d" % sum(map(int, requests))
    ),
    "/shop.Test/Echo": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
}


class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


@asynccontextmanager
async def grpc_mesh(protocol=AppProtocol.GRPC):
    """The mesh, and a channel of the library that leads through its waypoint."""
    EVENTS.update(called=threading.Event(), cancelled=threading.Event())
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Methods()])
    for ip in ("127.0.1.1", "127.0.1.2"):
        server.add_insecure_port(f"{ip}:9080")
    server.start()
    try:
        async with rig(apps=False) as mesh:
            declare(mesh, protocol)

            async def tunnel(client: trio.SocketStream) -> None:
                """What a node tunnel does for an application."""
                with suppress(HboneError):
                    await (await mesh.open()).couple(plain(client.socket), Counters())

            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            await mesh.nursery.start(partial(trio.serve_listeners, tunnel, listeners))
            port = listeners[0].socket.getsockname()[1]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield mesh, channel
    finally:
        EVENTS["cancelled"].set()
        server.stop(0).wait()


async def called(function, *words, **more):
    """A blocking call of the library, or the error that it ended in."""
    try:
        return await trio.to_thread.run_sync(partial(function, *words, **more))
    except grpc.RpcError as error:
        return error


@pytest.mark.parametrize("protocol", [AppProtocol.GRPC, AppProtocol.HTTP2, AppProtocol.UNKNOWN])
async def test_calls_with_metadata_both_ways(protocol):
    async with grpc_mesh(protocol) as (_, channel):
        call = channel.unary_unary("/shop.Test/Unary").with_call
        answer, details = await called(call, b"hello", metadata=(("x-ask", "7"),), timeout=10)
        assert answer == b"hello"
        assert dict(details.initial_metadata())["x-head"] == "1"
        trailing = dict(details.trailing_metadata())
        assert (trailing["x-tail"], trailing["data-bin"]) == ("7", b"\0\xff")
        answer, _ = await called(call, BIG, timeout=20)
        assert answer == BIG


async def test_statuses_and_messages_of_the_application():
    async with grpc_mesh() as (_, channel):
        error = await called(channel.unary_unary("/shop.Test/Failing"), b"", timeout=10)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "no such thing: é%",
        )
        error = await called(channel.unary_unary("/shop.Test/None"), b"", timeout=10)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_streams_both_ways():
    async with grpc_mesh() as (_, channel):
        count = channel.unary_stream("/shop.Test/Counting")
        numbers = await called(lambda: [int(n) for n in count(b"500", timeout=20)])
        assert numbers == list(range(500))
        total = await called(channel.stream_unary("/shop.Test/Sum"), iter([b"1"] * 500), timeout=20)
        assert total == b"500"

        def conversation():
            """Each message is answered before the next one is sent."""
            sent: queue.SimpleQueue = queue.SimpleQueue()
            answers = channel.stream_stream("/shop.Test/Echo")(iter(sent.get, None), timeout=20)
            for number in range(50):
                sent.put(b"%d" % number)
                assert next(answers) == b"%d" % number
            sent.put(None)
            return list(answers)

        assert await called(conversation) == []


async def test_a_deadline_ends_the_call_everywhere():
    async with grpc_mesh() as (_, channel):
        for timeout_s in (0.5, 2, 8):  # the call has to get there before it ends
            error = await called(channel.unary_unary("/shop.Test/Waiting"), b"", timeout=timeout_s)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if EVENTS["called"].is_set():
                break
        assert await trio.to_thread.run_sync(EVENTS["cancelled"].wait, 10)


async def test_a_client_that_cancels_ends_the_call_at_the_application():
    async with grpc_mesh() as (_, channel):
        future = channel.unary_unary("/shop.Test/Waiting").future(b"")
        assert await trio.to_thread.run_sync(EVENTS["called"].wait, 10)
        future.cancel()
        assert await trio.to_thread.run_sync(EVENTS["cancelled"].wait, 10)


async def test_the_waypoints_own_answers_are_statuses():
    async with grpc_mesh() as (mesh, channel):
        call = channel.unary_unary("/shop.Test/Unary")
        mesh.configure(policy([{"to": [{"operation": {"paths": ["/shop.Test/Unary"]}}]}], "DENY"))
        error = await called(call, b"", timeout=10)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "RBAC: access denied",
        )
        wait = {"route": [{"destination": {"host": "reviews"}}], "timeout": "0.3s"}
        mesh.configure(virtual_service(wait))
        error = await called(channel.unary_unary("/shop.Test/Waiting"), b"", timeout=10)
        # 504, as Envoy maps it; or the application, which is told the limit, gives up first
        assert error.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
        mesh.configure(virtual_service({"directResponse": {"status": 429}}))
        assert (await called(call, b"", timeout=10)).code() is grpc.StatusCode.UNAVAILABLE


async def test_no_application_is_unavailable():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.GRPC)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def tunnel(client: trio.SocketStream) -> None:
            with suppress(HboneError):
                await (await mesh.open()).couple(plain(client.socket), Counters())

        await mesh.nursery.start(partial(trio.serve_listeners, tunnel, listeners))
        port = listeners[0].socket.getsockname()[1]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            error = await called(channel.unary_unary("/shop.Test/Unary"), b"", timeout=10)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "upstream connect error" in error.details()
