"""ZDS with well-behaved ztunnels, and with the other kind."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ambient.net.core import wire
from ambient.net.io.agent_socket import AgentSocket
from ambient.net.io.netns import Netns
from ambient.net.io.zds_link import ACK_TIMEOUT_S, HELLO_TIMEOUT_S, Workload
from cni_plugin.io.zds_server import CONNECT_WAIT_S, NoTunnelError, TunnelError, ZdsServer

WEB_ADD = wire.Add("web", "web-0", "shop", "sa")


@pytest.fixture
def netns() -> Iterator[Netns]:
    with Netns.current() as here:
        yield here


def web(netns: Netns | None) -> Workload:
    return Workload("web", "web-0", "shop", "sa", netns)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[ZdsServer]:
    server = ZdsServer(str(folder / "ztunnel.sock"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


class Client:
    """One ztunnel, played by the test step by step."""

    def __init__(self, server: ZdsServer) -> None:
        self.server = server
        self.fds = 0

    async def __aenter__(self) -> Client:
        self.socket = await AgentSocket.connect(self.server._path)
        await self.socket.send(wire.encode(wire.Hello()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def next(self) -> wire.Request | None:
        data, fd = await self.socket.recv()
        if fd is not None:
            self.fds += 1
            os.close(fd)
        return wire.decode_request(data) if data else None

    async def ack(self, error: str = "") -> None:
        await self.socket.send(wire.encode(wire.Ack(error)))

    async def expect(self, *messages: wire.Request, error: str = "") -> None:
        for message in messages:
            assert await self.next() == message
            await self.ack(error)

    async def gone(self) -> bool:
        """Whether the agent has closed the connection."""
        try:
            return await self.next() is None
        except OSError:
            return True


async def test_the_snapshot_names_pods_with_and_without_namespace(
    tmp_path: Path, netns: Netns
) -> None:
    async with serving(tmp_path) as server:
        server.adopt(web(netns))
        server.adopt(Workload("db", "db-0", "shop", "sa", None))
        async with Client(server) as client:
            await client.expect(WEB_ADD, wire.Keep("db"), wire.SnapshotSent())
            assert client.fds == 1


async def test_a_pod_is_handed_over_when_ztunnel_says_so(tmp_path: Path, netns: Netns) -> None:
    async with serving(tmp_path) as server, Client(server) as client:
        await client.expect(wire.SnapshotSent())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.add, web(netns))
            assert await client.next() == WEB_ADD
            assert server.holds("web")
            await client.ack()
        await server.add(web(netns))  # told already: nothing to wait for
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.remove, "web")
            await client.expect(wire.Del("web"))


async def test_new_pods_go_to_the_newest_and_departures_to_all(
    tmp_path: Path, netns: Netns
) -> None:
    async with serving(tmp_path) as server, Client(server) as old:
        await old.expect(wire.SnapshotSent())
        async with Client(server) as new, trio.open_nursery() as nursery:
            await new.expect(wire.SnapshotSent())
            nursery.start_soon(server.add, web(netns))
            await new.expect(WEB_ADD)
        # The newest is gone: the old one is told what only the other knew.
        await old.expect(WEB_ADD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.remove, "web")
            await old.expect(wire.Del("web"))


async def test_a_refusal_is_the_callers_to_handle(tmp_path: Path, netns: Netns) -> None:
    async with serving(tmp_path) as server, Client(server) as client:
        await client.expect(wire.SnapshotSent())

        async def refuse() -> None:
            await client.expect(WEB_ADD, error="port in use")
            await client.expect(wire.Del("web"))  # or it would try for ever

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            with pytest.raises(TunnelError, match="port in use"):
                await server.add(web(netns))
        assert not server.holds("web")


async def test_without_a_ztunnel_it_is_said_so(
    tmp_path: Path, netns: Netns, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(tmp_path) as server:
        started = trio.current_time()
        with pytest.raises(NoTunnelError, match="no ztunnel is connected"):
            await server.add(web(netns))
        assert trio.current_time() - started == pytest.approx(CONNECT_WAIT_S)
        await server.remove("web")


@pytest.mark.parametrize(
    "answer",
    [b"\xff\xff", b"\x12\x00", wire.encode(wire.Hello()) * 3],
    ids=["garbage", "no ack", "hello again"],
)
async def test_rubbish_ends_only_its_own_connection(
    tmp_path: Path, netns: Netns, answer: bytes
) -> None:
    async with serving(tmp_path) as server, Client(server) as good:
        await good.expect(wire.SnapshotSent())
        async with Client(server) as bad:
            await bad.expect(wire.SnapshotSent())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_failure, server, netns)
                assert await bad.next() == WEB_ADD
                await bad.socket.send(answer)
                assert await bad.gone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.add, web(netns))
            await good.expect(WEB_ADD)


async def expect_failure(server: ZdsServer, netns: Netns) -> None:
    with pytest.raises(TunnelError, match="connection was lost"):
        await server.add(web(netns))


async def test_who_speaks_without_being_asked_is_disconnected(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, Client(server) as client:
        await client.expect(wire.SnapshotSent())
        await client.ack()
        assert await client.gone()
        with trio.fail_after(30):
            while server.connected:
                await trio.sleep(0.01)


async def test_a_descriptor_from_ztunnel_is_refused(tmp_path: Path, netns: Netns) -> None:
    async with serving(tmp_path) as server, Client(server) as client:
        await client.expect(wire.SnapshotSent())
        await client.socket.send(b"x", netns.fd)
        assert await client.gone()


async def test_a_ztunnel_that_hangs_delays_nobody_else(
    tmp_path: Path, netns: Netns, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.2  # the sockets are real: give them their turn
    async with serving(tmp_path) as server, Client(server) as stuck:
        assert await stuck.next() == wire.SnapshotSent()
        async with Client(server) as good:
            await good.expect(wire.SnapshotSent())
            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.add, web(netns))
                await good.expect(WEB_ADD)
            assert trio.current_time() - started < 1
            assert await stuck.gone()
            assert trio.current_time() - started <= ACK_TIMEOUT_S + 1


async def test_a_client_without_hello_is_dropped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.2
    async with serving(tmp_path) as server:
        started = trio.current_time()
        with await AgentSocket.connect(server._path) as silent:
            assert await silent.recv() == (b"", None)
        assert trio.current_time() - started == pytest.approx(HELLO_TIMEOUT_S, abs=0.5)


async def test_another_version_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        with await AgentSocket.connect(server._path) as other:
            await other.send(b"\x08\x00")
            assert await other.recv() == (b"", None)


def test_no_socket_is_left(tmp_path: Path) -> None:
    async def once() -> None:
        async with serving(tmp_path):
            pass

    trio.run(once)
    trio.run(once)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        with pytest.raises(FileNotFoundError):
            probe.connect(str(tmp_path / "ztunnel.sock"))
