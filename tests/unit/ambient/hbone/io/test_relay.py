"""The relay itself: plain splices, hang-ups, and descriptors whose number comes back."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from ambient.hbone.core.counters import Counters
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.socket_end import IN
from tests.unit.ambient.hbone.io.pair import echo, mesh, send_and_collect, tcp_pair

PAYLOAD = bytes(range(256)) * 4096 * 8


@asynccontextmanager
async def running():
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            relay = Relay()
            await nursery.start(lambda task_status: relay.run(task_status=task_status))
            yield relay, nursery
            nursery.cancel_scope.cancel()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def cpu_seconds_of_doing_nothing():
    before = time.process_time()
    await trio.sleep(0.4)
    return time.process_time() - before


async def test_a_splice_moves_megabytes_both_ways_and_ends_with_both_sides():
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    counters = Counters()
    async with running() as (relay, _):
        results = {}

        async def side(name, sock, payload):
            results[name] = await send_and_collect(sock, payload)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.splice, a, b, counters)
            nursery.start_soon(side, "a", a_app, PAYLOAD)
            nursery.start_soon(side, "b", b_app, b"short answer")
        assert results == {"a": b"short answer", "b": PAYLOAD}
        assert (counters.sent, counters.received) == (len(PAYLOAD), len(b"short answer"))
        assert a.fileno() == b.fileno() == -1


async def test_a_splice_keeps_the_other_direction_open_after_one_ended():
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    async with running() as (relay, nursery):
        nursery.start_soon(relay.splice, a, b, Counters())
        a_app.shutdown(socket.SHUT_WR)
        assert await trio.to_thread.run_sync(b_app.recv, 10) == b""
        b_app.sendall(b"later")
        assert await trio.to_thread.run_sync(a_app.recv, 10) == b"later"
        a_app.close()
        b_app.close()


async def test_cancelling_a_splice_closes_both_sockets():
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    async with running() as (relay, _):
        with trio.move_on_after(0.05):
            await relay.splice(a, b, Counters())
        assert await trio.to_thread.run_sync(a_app.recv, 1) == b""
        assert await trio.to_thread.run_sync(b_app.recv, 1) == b""
        a_app.close()
        b_app.close()


@pytest.mark.parametrize("closing", [reset, socket.socket.close])
async def test_a_vanished_application_ends_its_splice(closing):
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    async with running() as (relay, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.splice, a, b, Counters())
            closing(a_app)
            assert await trio.to_thread.run_sync(b_app.recv, 1) == b""
            b_app.close()


async def test_a_hang_up_behind_a_full_receiver_costs_no_time():
    """The writer is gone, but its bytes wait for a reader that does not read."""
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    async with running() as (relay, nursery):
        nursery.start_soon(relay.splice, a, b, Counters())
        a_app.setblocking(False)
        with trio.move_on_after(0.2):
            while True:
                try:
                    a_app.send(bytes(1 << 20))
                except BlockingIOError:
                    await trio.sleep(0.01)
        a_app.close()
        assert await cpu_seconds_of_doing_nothing() < 0.1
        b_app.close()


@pytest.mark.parametrize("closing", [reset, socket.socket.close])
async def test_a_hang_up_behind_a_full_tunnel_costs_no_time(closing):
    application, relayed = tcp_pair()
    async with mesh(echo) as m:
        stream = await m.open()
        m.nursery.start_soon(stream.couple, relayed, Counters())
        application.setblocking(False)
        with trio.move_on_after(0.3):
            while True:
                try:
                    application.send(bytes(1 << 20))
                except BlockingIOError:
                    await trio.sleep(0.01)
        closing(application)
        assert await cpu_seconds_of_doing_nothing() < 0.1


async def test_a_half_closed_peer_that_resets_later_costs_no_time_and_ends():
    (a_app, a), (b_app, b) = tcp_pair(), tcp_pair()
    async with running() as (relay, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.splice, a, b, Counters())
            a_app.shutdown(socket.SHUT_WR)
            assert await trio.to_thread.run_sync(b_app.recv, 1) == b""
            reset(a_app)
            assert await cpu_seconds_of_doing_nothing() < 0.1
            b_app.close()


async def test_a_closed_number_is_not_reused_within_the_same_turn():
    """Both sockets are ready in one batch; whoever comes first closes the other and opens anew."""
    (_one_app, one), (_two_app, two) = tcp_pair(), tcp_pair()
    calls, opened = [], []
    async with running() as (relay, _):
        pair = {one: two, two: one}

        def handler(mine):
            def ready(mask):
                calls.append(mine)
                other = pair[mine]
                closed_number = other.fileno()
                relay.unwatch(mine.fileno())
                relay.unwatch(closed_number)
                relay.close_later(other)
                fresh = socket.socket()
                opened.append((fresh, closed_number))
                relay.watch(fresh.fileno(), IN, lambda mask: calls.append(fresh))

            return ready

        _one_app.sendall(b"x")
        _two_app.sendall(b"x")
        relay.watch(one.fileno(), IN, handler(one))
        relay.watch(two.fileno(), IN, handler(two))
        while not calls:
            await trio.lowlevel.checkpoint()
        fresh, closed_number = opened[0]
        assert fresh.fileno() != closed_number
        assert calls[0] in (one, two)
        assert set(calls[1:]) <= {fresh}  # the other's event found nobody
        relay.unwatch(fresh.fileno())
    for sock in (_one_app, _two_app, one, two, fresh):
        sock.close()


async def test_what_is_marked_before_the_first_turn_is_not_forgotten():
    relay, called = Relay(), trio.Event()
    relay.soon(called.set)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: relay.run(task_status=task_status))
            await called.wait()
            nursery.cancel_scope.cancel()
