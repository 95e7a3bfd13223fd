"""Our client and our server, joined by a real TCP connection on localhost."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import (
    ConnectionLostError,
    ConnectRefused,
    HandshakeError,
    HboneError,
    HboneStreamError,
)
from ambient.hbone.io.pool import Pool, PoolSettings
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.server import Drain, serve
from ambient.identity.core.verify import PeerIdentityError
from tests.fakes.certs import TestCa, identity

CA = TestCa()
WEB, API = CA.issue("web"), CA.issue("api")
DEADLINE_S = 30


class Mesh:
    """One relay with a server that hands every CONNECT to ``handler``, and a pool."""

    def __init__(self, relay, nursery, handler, settings):
        self.relay = relay
        self.nursery = nursery
        self.handler = handler
        self.pool = Pool(relay, settings)
        self.drain = Drain()
        self.accepted = 0
        self.server_errors = []
        self.server_identity = API
        self.client_identity = WEB
        self.allowed = frozenset({identity("api")})

    async def accept_forever(self, task_status):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.address = listener.getsockname()
        tls = self.server_identity.server_context()
        with listener:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(listener)
                sock, _ = listener.accept()
                self.accepted += 1
                self.nursery.start_soon(self._serve, sock, tls)

    async def _serve(self, sock, tls):
        try:
            await serve(self.relay, sock, tls, self.handler, self.drain)
        except (HboneError, PeerIdentityError) as error:
            self.server_errors.append(error)

    async def dial(self):
        with trio.socket.socket() as sock:
            await sock.connect(self.address)
            return socket.socket(fileno=sock.detach())

    async def open(self, authority="10.0.0.7:80", headers=()):
        stream, _ = await self.pool.connect(
            "key",
            ConnectRequest(authority, headers),
            self.dial,
            self.client_identity.client_context(),
            self.allowed,
        )
        return stream


@asynccontextmanager
async def mesh(handler, settings=None, **changes):
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            relay = Relay()
            await nursery.start(lambda task_status: relay.run(task_status=task_status))
            made = Mesh(relay, nursery, handler, settings)
            for name, value in changes.items():
                setattr(made, name, value)
            await nursery.start(made.accept_forever)
            yield made
            nursery.cancel_scope.cancel()


async def echo(stream):
    stream.accept((("baggage", "k8s.pod.name=api"),))
    async for chunk in stream:
        await stream.send_all(chunk)
    await stream.send_eof()


async def test_a_stream_carries_bytes_both_ways_and_half_closes():
    async with mesh(echo) as m:
        stream = await m.open()
        assert stream.peer == identity("api")
        assert (await stream.response()).header("baggage") == "k8s.pod.name=api"
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.send_all(b"bye")
        await stream.send_eof()
        assert await stream.receive_some() == b"bye"
        assert await stream.receive_some() == b""


async def test_the_server_sees_who_asks_for_what():
    seen = []

    async def handler(stream):
        seen.append((stream.peer, stream.request))
        stream.refuse(401)

    async with mesh(handler) as m:
        with pytest.raises(ConnectRefused) as refused:
            await m.open("10.0.0.7:80", (("forwarded", 'for="10.0.0.1"'),))
        assert refused.value.status == 401
        assert seen == [
            (identity("web"), ConnectRequest("10.0.0.7:80", (("forwarded", 'for="10.0.0.1"'),)))
        ]


async def test_coupled_sockets_move_megabytes_both_ways():
    payload = bytes(range(256)) * 4096 * 8  # 8 MiB: more than a stream window
    ours, theirs = socket.socketpair()
    counters = Counters()
    async with mesh(echo) as m:
        stream = await m.open()
        m.nursery.start_soon(stream.couple, theirs, counters)
        got = bytearray()
        application = trio.SocketStream(trio.socket.from_stdlib_socket(_tcp(ours)))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _send():
                await application.send_all(payload)
                await application.send_eof()

            async for chunk in application:
                got += chunk
        assert bytes(got) == payload
        assert (counters.sent, counters.received) == (len(payload), len(payload))
        await application.aclose()


def _tcp(sock):
    sock.setblocking(False)
    return sock


_ = (ConnectionLostError, HandshakeError, HboneStreamError, PoolSettings)
