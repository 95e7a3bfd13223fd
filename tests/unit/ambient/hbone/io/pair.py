"""Our client and our server, joined by a real TCP connection on localhost."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import trio

from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.errors import HboneError
from ambient.hbone.io.connection import DEFAULT_TIMING
from ambient.hbone.io.pool import Pool
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
        self.port = 0
        self.timing = DEFAULT_TIMING
        self.accepted = 0
        self.server_errors = []
        self.server_identity = API
        self.client_identity = WEB
        self.allowed = frozenset({identity("api")})

    async def accept_forever(self, task_status):
        listener = socket.create_server(("127.0.0.1", self.port))
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
            await serve(self.relay, sock, tls, self.handler, self.drain, self.timing)
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


async def send_and_collect(sock, payload):
    """Send everything, half-close, and read to the end at the same time, as an application."""
    sock.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as application:
        got = bytearray()

        async def send():
            await application.send_all(payload)
            await application.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for chunk in application:
                got += chunk
    return bytes(got)


def tcp_pair():
    """Two connected TCP sockets (a socket pair has no TCP behaviour, such as resets)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    return one, two
