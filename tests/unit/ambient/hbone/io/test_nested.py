"""Double HBONE: a gateway that sees only the outer CONNECT, and the far end behind it."""

from contextlib import asynccontextmanager

import pytest
import trio

from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import ConnectRefused, HandshakeError
from ambient.hbone.io.nested import connect_inside
from ambient.identity.core.verify import PeerIdentityError
from tests.fakes.certs import identity
from tests.unit.ambient.hbone.io.pair import CA, echo, mesh, send_and_collect, tcp_pair

GATEWAY = CA.issue("gateway")
FAR = frozenset({identity("api")})


class World:
    def __init__(self, gateway, far):
        self.gateway = gateway
        self.far = far

    async def connect(self, allowed=FAR):
        outer = await self.gateway.open("api.example:80")
        request = ConnectRequest("api.example:80", (("x-forwarded-network", "here"),))
        tls = self.gateway.client_identity.client_context()
        return await connect_inside(self.gateway.relay, outer, request, tls, allowed)


@asynccontextmanager
async def world(handler=echo):
    """The far mesh's relay also serves the gateway; both are other processes in real life."""
    async with mesh(handler) as far:

        async def forward(stream):
            sock = await far.dial()
            stream.accept()
            await stream.couple(sock, Counters())

        allowed = frozenset({identity("gateway")})
        async with mesh(forward, server_identity=GATEWAY, allowed=allowed) as gateway:
            yield World(gateway, far)


async def test_bytes_and_both_ends_pass_through_the_gateway():
    async with world() as w:
        stream, response = await w.connect()
        assert stream.peer == identity("api")
        assert response.header("baggage") == "k8s.pod.name=api"
        ours, application = tcp_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.couple, ours, Counters())
            payload = bytes(range(256)) * 4096
            assert await send_and_collect(application, payload) == payload


async def test_the_outer_tunnel_is_shared_and_the_inner_one_is_not():
    async with world() as w:
        streams = [(await w.connect())[0] for _ in range(3)]
        assert (w.gateway.accepted, w.far.accepted) == (1, 3)
        for stream in streams:
            await stream.aclose()
        while w.far.drain._connections:  # the inner connections end with their streams
            await trio.sleep(0.001)
        assert w.gateway.pool.connections == 1


async def test_a_stranger_behind_the_gateway_gets_no_request():
    asked = []

    async def handler(stream):
        asked.append(stream)

    async with world(handler) as w:
        with pytest.raises(PeerIdentityError, match="sa/api"):
            await w.connect(frozenset({identity("somebody")}))
        assert asked == []


async def test_a_refusal_of_the_far_end_is_told():
    async def deny(stream):
        stream.refuse(401)

    async with world(deny) as w:
        with pytest.raises(ConnectRefused, match="401"):
            await w.connect()


async def test_a_gateway_that_leads_nowhere_is_a_failed_handshake():
    async def nowhere(stream):
        stream.accept()
        await stream.aclose()

    allowed = frozenset({identity("gateway")})
    async with mesh(nowhere, server_identity=GATEWAY, allowed=allowed) as gateway:
        with pytest.raises(HandshakeError, match="closed the connection"):
            await World(gateway, None).connect()
