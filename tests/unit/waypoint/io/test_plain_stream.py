"""A TCP connection that the relay reads."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from ambient.hbone.io.relay import Relay
from waypoint.io.plain_stream import PlainStream

MB = 1 << 20


@asynccontextmanager
async def pair():
    """Our end, and the other one as trio's own stream."""
    relay = Relay()
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        sock = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    sock.setblocking(False)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        ours = PlainStream(sock, relay)
        theirs = trio.SocketStream(trio.socket.from_stdlib_socket(other))
        with trio.fail_after(20):
            async with ours, theirs:
                yield ours, theirs
        nursery.cancel_scope.cancel()


async def test_bytes_both_ways_and_half_closes():
    async with pair() as (ours, theirs):
        await theirs.send_all(b"hello")
        assert await ours.receive_some(2) == b"he"
        assert await ours.receive_some() == b"llo"
        assert ours.quiet
        await theirs.send_eof()
        assert await ours.receive_some() == b""
        assert not ours.quiet
        await ours.send_all(b"still")
        assert await theirs.receive_some() == b"still"
        await ours.send_eof()
        assert await theirs.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")


async def test_much_is_sent_and_received_with_bounded_memory():
    async with pair() as (ours, theirs):
        received = 0

        async def read():
            nonlocal received
            while received < 8 * MB:
                received += len(await theirs.receive_some())
                assert received

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, b"x" * (8 * MB))
            nursery.start_soon(read)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"y" * (8 * MB))
            received = len(await ours.receive_some())
            await trio.sleep(0.2)
            assert ours._size < MB
            while received < 8 * MB:
                received += len(await ours.receive_some())


async def test_a_reset_breaks_it():
    async with pair() as (ours, theirs):
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(trio.BrokenResourceError):
                    await ours.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            theirs.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            theirs.socket.close()
        assert not ours.quiet


async def test_closing_wakes_whoever_waits():
    async with pair() as (ours, _):
        async with trio.open_nursery() as nursery:

            async def read():
                with pytest.raises(trio.ClosedResourceError):
                    await ours.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            ours.close()


async def test_a_detached_socket_keeps_what_arrived():
    async with pair() as (ours, theirs):
        await theirs.send_all(b"early")
        sock = ours.detach()
        with sock:
            sock.setblocking(True)
            assert sock.recv(10) == b"early"
        with pytest.raises(trio.ClosedResourceError):
            ours.send_now(b"x")
