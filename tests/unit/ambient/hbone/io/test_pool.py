"""Which connection a stream takes, and what happens to streams when connections come and go."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.lowlevel

from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.errors import ConnectionLostError, HandshakeError
from ambient.hbone.io.connection import Timing
from ambient.hbone.io.pool import PoolSettings
from ambient.identity.core.verify import PeerIdentityError
from tests.fakes.certs import identity
from tests.unit.ambient.hbone.io.pair import CA, echo, mesh


async def test_a_herd_of_opens_makes_one_connection():
    async with mesh(echo) as m:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(m.open)
        assert m.accepted == 1
        assert m.pool.connections == 1


async def test_a_full_connection_gets_a_second_one_and_is_used_again_when_it_has_room():
    async with mesh(echo, PoolSettings(max_streams=10)) as m:
        streams = []

        async def open_one():
            streams.append(await m.open())

        async with trio.open_nursery() as nursery:
            for _ in range(25):
                nursery.start_soon(open_one)
        assert m.accepted == 3
        for stream in streams:
            await stream.aclose()
        for _ in range(10):
            await m.open()
        assert m.accepted == 3


async def test_a_failed_dial_fails_everybody_who_waits_for_it():
    dials = 0

    async with mesh(echo) as m:

        async def refused():
            nonlocal dials
            dials += 1
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError("nobody listens")

        m.dial = refused
        failures = []

        async def open_one():
            try:
                await m.open()
            except ConnectionRefusedError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(open_one)
        assert len(failures) == 20
        assert dials == 1


async def test_a_cancelled_dial_leaves_the_others_to_dial_again():
    async with mesh(echo) as m:
        dial, first = m.dial, trio.Event()

        async def stuck():
            m.dial = dial
            first.set()
            await trio.sleep_forever()

        m.dial = stuck
        scope = trio.CancelScope()

        async def impatient():
            with scope:
                await m.open()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await first.wait()
            nursery.start_soon(m.open)
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
        assert m.accepted == 1


@pytest.mark.parametrize("which", ["expired", "foreign"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_bad_certificate_is_one_clear_error(which, side):
    bad = getattr(CA, which)("web" if side == "client" else "api")
    async with mesh(echo, **{f"{side}_identity": bad}) as m:
        with pytest.raises(HandshakeError, match="certificate") as error:
            await m.open()
        assert "\n" not in str(error.value)
        while not m.server_errors:
            await trio.sleep(0.01)
        assert isinstance(m.server_errors[0], HandshakeError)
        assert m.pool.connections == 0


async def test_another_identity_than_the_allowed_ones_is_refused():
    async with mesh(echo, allowed=frozenset({identity("other")})) as m:
        with pytest.raises(PeerIdentityError, match="sa/api"):
            await m.open()
        m.allowed = lambda peer: peer.service_account == "api"
        await m.open()


async def test_a_peer_that_does_not_shake_hands_is_given_up():
    async with mesh(echo, PoolSettings(timing=Timing(handshake_s=0.2))) as m:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            m.address = listener.getsockname()
            with pytest.raises(HandshakeError, match="within"):
                await m.open()


async def test_drain_lets_streams_finish_and_sends_new_ones_to_a_new_connection():
    async with mesh(echo) as m:
        old = await m.open()
        m.drain.begin()
        while m.pool._entries["key"].pick() is not None:
            await trio.sleep(0.01)
        m.drain = type(m.drain)()
        new = await m.open()
        assert m.accepted == 2
        for stream in (old, new):
            await stream.send_all(b"both work")
            assert await stream.receive_some() == b"both work"
        await old.send_eof()
        assert await old.receive_some() == b""
        while m.pool.connections == 2:
            await trio.sleep(0.01)
        assert m.server_errors == []


async def test_streams_opened_while_the_server_leaves_are_never_lost():
    async with mesh(echo) as m:
        await m.open()
        done = 0

        async def one():
            nonlocal done
            stream = await m.open()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await stream.aclose()
            done += 1

        async with trio.open_nursery() as nursery:
            for turn in range(200):
                nursery.start_soon(one)
                if turn % 40 == 20:
                    m.drain.begin()
                    m.drain = type(m.drain)()
                await trio.lowlevel.checkpoint()
        assert done == 200
        assert m.accepted > 1


async def test_a_dead_connection_fails_its_streams_and_is_replaced():
    timing = Timing(ping_interval_s=0.1, ping_timeout_s=0.2)
    async with mesh(echo, PoolSettings(timing=timing)) as m:
        stream = await m.open()
        server = next(iter(m.drain._connections))
        server.relay.unwatch(server._record.fd)  # the peer's machine stops, without a word
        with pytest.raises(trio.BrokenResourceError) as broken:
            await stream.receive_some()
        assert isinstance(broken.value.__cause__, ConnectionLostError)
        assert "PING" in str(broken.value)
        again = await m.open()
        await again.send_all(b"x")
        assert await again.receive_some() == b"x"


async def test_an_idle_connection_is_released():
    settings = PoolSettings(idle_s=0.1, timing=Timing(ping_interval_s=0.05))
    async with mesh(echo, settings) as m:
        stream = await m.open()
        await trio.sleep(0.3)
        assert m.pool.connections == 1  # it has a stream
        await stream.aclose()
        while m.pool.connections:
            await trio.sleep(0.01)


async def test_release_closes_after_the_last_stream():
    async with mesh(echo) as m:
        stream = await m.open()
        m.pool.release()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        await stream.aclose()
        while m.pool.connections:
            await trio.sleep(0.01)


async def test_a_request_waits_for_no_answer_when_only_opened():
    async with mesh(echo) as m:
        tls = m.client_identity.client_context()
        request = ConnectRequest("10.0.0.7:80")
        stream = await m.pool.open("key", request, m.dial, tls, m.allowed)
        assert (await stream.response()).status == 200


async def test_pain_14_a_tunnel_that_breaks_before_the_answer_is_replaced():
    requests = 0

    async def handler(stream):
        nonlocal requests
        requests += 1
        if requests == 1:
            server = next(iter(m.drain._connections))
            server.close(server.lost("killed"))
        else:
            await echo(stream)

    async with mesh(handler) as m:
        stream = await m.open()
        await stream.send_all(b"still there")
        assert await stream.receive_some() == b"still there"
        assert (requests, m.accepted) == (2, 2)
