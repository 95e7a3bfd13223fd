"""Streams between our client and our server: bytes, half-close, refusals, resets, cancellation."""

from __future__ import annotations

import _ssl
import gc
import socket
import struct

import pytest
import trio

from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import ConnectRefused, HboneStreamError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.limits import SERVER_LIMITS
from tests.fakes.certs import identity
from tests.unit.ambient.hbone.io.pair import echo, mesh, send_and_collect, tcp_pair

PAYLOAD = bytes(range(256)) * 4096 * 8  # 8 MiB: more than a stream window


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


async def test_the_server_sees_who_asks_for_what_from_where():
    seen = []

    async def handler(stream):
        seen.append((stream.peer, stream.request, stream.peer_address[0], stream.local_address))
        stream.refuse(401)

    async with mesh(handler) as m:
        forwarded = (("forwarded", 'for="10.0.0.1"'),)
        with pytest.raises(ConnectRefused) as refused:
            await m.open("10.0.0.7:80", forwarded)
        assert refused.value.status == 401
        request = ConnectRequest("10.0.0.7:80", forwarded)
        assert seen == [(identity("web"), request, "127.0.0.1", m.address)]


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_what_openssl_holds_does_not_wait_for_the_collector(no_collector):
    def all_there():
        return [one for one in gc.get_objects() if type(one) is _ssl._SSLSocket]

    others = {id(one): one for one in all_there()}  # held, so that no number is used again

    def ours():
        return sum(id(one) not in others for one in all_there())

    async with mesh(echo) as m:
        stream = await m.open()
        assert ours() == 2
        await stream.send_eof()
        assert await stream.receive_some() == b""
        m.pool.close()
        while ours():
            await trio.sleep(0.01)


async def test_coupled_sockets_move_megabytes_both_ways():
    ours, theirs = tcp_pair()
    counters = Counters()
    async with mesh(echo) as m:
        stream = await m.open()
        m.nursery.start_soon(stream.couple, theirs, counters)
        assert await send_and_collect(ours, PAYLOAD) == PAYLOAD
        assert (counters.sent, counters.received) == (len(PAYLOAD), len(PAYLOAD))


async def test_a_server_couples_too_and_bytes_before_the_coupling_are_kept():
    application, relayed = tcp_pair()
    done = trio.Event()

    async def handler(stream):
        stream.accept()
        await trio.testing.wait_all_tasks_blocked(0.01)  # the client's bytes are in the stream now
        await stream.couple(relayed, Counters())
        done.set()

    async with mesh(handler) as m:
        stream = await m.open()
        await stream.send_all(b"early")
        await stream.send_eof()
        assert await send_and_collect(application, b"answer") == b"early"
        assert await stream.receive_some() == b"answer"
        assert await stream.receive_some() == b""
        await done.wait()


async def test_a_slow_reader_stops_its_sender_and_nobody_else():
    async with mesh(echo) as m:
        slow, quick = await m.open(), await m.open()
        sent = 0
        with trio.move_on_after(0.5) as scope:
            while True:
                await slow.send_all(bytes(1 << 20))
                sent += 1 << 20
        assert scope.cancelled_caught
        # one window on the way there, one on the way back, and what is in the echo's hands
        assert sent <= 3 * SERVER_LIMITS.stream_window
        await quick.send_all(b"still moving")
        assert await quick.receive_some() == b"still moving"


async def test_a_slow_application_socket_stops_the_senders_window():
    ours, theirs = tcp_pair()
    async with mesh(echo) as m:
        stream = await m.open()
        m.nursery.start_soon(stream.couple, theirs, Counters())
        application = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        ours.setblocking(False)
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await application.send_all(bytes(1 << 20))
                sent += 1 << 20
        assert sent < 40 << 20  # two windows and the kernel's buffers, never without an end
        other = await m.open()
        await other.send_all(b"x")
        assert await other.receive_some() == b"x"
        await application.aclose()


async def test_cancelling_a_coupling_resets_the_stream_and_closes_the_socket():
    ours, theirs = tcp_pair()
    failures = []

    async def handler(stream):
        stream.accept()
        try:
            await stream.receive_some()
            assert await stream.receive_some() == b""
            await stream.send_all(b"too late")
        except trio.BrokenResourceError as error:
            failures.append(error.__cause__.code)

    async with mesh(handler) as m:
        stream = await m.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.couple, theirs, Counters())
            ours.sendall(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(ours.recv, 1) == b""
        while not failures:
            await trio.sleep(0.01)
        assert failures == [ErrorCode.CANCEL]
        ours.close()


async def test_a_reset_with_an_error_is_reported_and_seen_by_the_application():
    ours, theirs = tcp_pair()

    async def handler(stream):
        stream.accept()
        await stream.receive_some()
        stream.reset(ErrorCode.INTERNAL_ERROR)

    async with mesh(handler) as m:
        stream = await m.open()
        ours.sendall(b"x")
        with pytest.raises(HboneStreamError, match="INTERNAL_ERROR"):
            await stream.couple(theirs, Counters())
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
        ours.close()


async def test_a_reset_of_the_application_ends_its_stream_in_order():
    ours, theirs = tcp_pair()
    got = []

    async def handler(stream):
        stream.accept()
        async for chunk in stream:
            got.append(chunk)
        await stream.send_eof()

    async with mesh(handler) as m:
        stream = await m.open()
        ours.sendall(b"last words")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.couple, theirs, Counters())
            while not got:
                await trio.sleep(0.01)
            ours.close()
        assert got == [b"last words"]


async def test_a_handler_that_has_not_answered_is_cancelled_when_the_client_gives_up():
    began, cancelled = trio.Event(), trio.Event()

    async def handler(stream):
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with mesh(handler) as m:
        async with trio.open_nursery() as client:
            client.start_soon(m.open)
            await began.wait()
            client.cancel_scope.cancel()
        await cancelled.wait()


async def test_a_failing_handler_answers_503():
    async def handler(stream):
        raise HboneStreamError("the application is not there", ErrorCode.CONNECT_ERROR)

    async with mesh(handler) as m:
        with pytest.raises(ConnectRefused, match="503"):
            await m.open()
