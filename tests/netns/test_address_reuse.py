"""Clients use their ports again: what the kernel remembers of old connections harms no new one.

A packet that is lost is sent again, and the kernel counts that. So a connection that had to wait is
told from a slow machine, where the answer is late: of what was sent again for nothing the other end
says so (D-SACK, RFC 2883), and the kernel counts that too.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from ambient.net.io import bpf_programs
from tests.bpf import mount_bpf_fs, unavailable
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import Pod, World, dual_chain, needs_cni, node, until
from tests.netns.test_backends import annotate, by_ebpf, by_nftables
from tests.netns.test_enrol import APP_PORT, Echo, echoes, make

pytestmark = [pytest.mark.netns, needs_cni]
needs_bpf = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

# Offsets in struct tcp_info of linux/tcp.h: tcpi_total_retrans, tcpi_dsack_dups.
RETRANSMITTED, DUPLICATES, INFO_BYTES = 100, 216, 232
NODE_IP, NODE_IP6 = "10.244.1.1", "fd00:10:244:1::1"
PATIENCE_S = 10.0


class Way(NamedTuple):
    """Who connects, from which address and port, to where."""

    source: Pod | None
    address: tuple[str, int]
    host: str


async def connect(way: Way) -> trio.SocketStream:
    """From exactly that address and port."""
    sock = make(way.source, socket.AF_INET6 if ":" in way.host else socket.AF_INET)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(way.address)
    client = trio.socket.from_stdlib_socket(sock)
    with trio.fail_after(PATIENCE_S):
        await client.connect((way.host, APP_PORT))
    return trio.SocketStream(client)


def lost(stream: trio.SocketStream) -> int:
    """Packets that had to be sent again, and were not there already."""
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
    again, duplicates = (
        struct.unpack_from("=I", info, at)[0] for at in (RETRANSMITTED, DUPLICATES)
    )
    return int(again) - int(duplicates)


def reset(stream: trio.SocketStream) -> None:
    """Gone at both ends, without a time during which the port is taken."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    stream.socket.close()


class Scene(NamedTuple):
    """A pod that serves and calls, and the node's end of both."""

    world: World
    tunnel: FakeTunnel
    web: Pod
    apps: list[Echo]

    def apps_reset(self) -> None:
        for app in self.apps:
            app.reset_all()

    def ways(self, port: int) -> list[Way]:
        """Into the pod and out of it, with both versions of IP."""
        return [
            Way(None, (NODE_IP, port), self.web.ip),
            Way(None, (NODE_IP6, port), self.web.ip6),
            Way(self.web, (self.web.ip, port), NODE_IP),
            Way(self.web, (self.web.ip6, port), NODE_IP6),
        ]


@asynccontextmanager
async def scene(folder: Path, mode: str | None = "ambient") -> AsyncIterator[Scene]:
    async with node(folder, dual_chain) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop", mode)
        web = await world.start("web")
        apps = [Echo(nursery, web), Echo(nursery, web, socket.AF_INET6)]
        Echo(nursery, None)
        Echo(nursery, None, socket.AF_INET6)
        await until(lambda: settled(web, web.ip6) and settled(None, NODE_IP6))
        yield Scene(world, tunnel, web, apps)
        nursery.cancel_scope.cancel()


def settled(source: Pod | None, address: str) -> bool:
    """Duplicate address detection has ended, so that it can be a connection's source."""
    with make(source, socket.AF_INET6) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


async def answered_at_once(tunnel: FakeTunnel, ways: list[Way]) -> None:
    """Every way can be gone again, through the tunnel, and nothing is lost on it."""
    before = len(tunnel.captured)
    streams = [await connect(way) for way in ways]
    for stream in streams:
        assert await echoes(stream)
    with trio.move_on_after(PATIENCE_S):
        while any(lost(stream) for stream in streams):
            await trio.sleep(0.01)  # the other end's word about a duplicate is on its way
    assert [lost(stream) for stream in streams] == [0] * len(ways)
    assert len(tunnel.captured) == before + len(ways), "none of them is outside the mesh"
    for stream in streams:
        reset(stream)


async def test_connections_that_began_while_a_pod_was_leaving(tmp_path: Path) -> None:
    """They end when nobody looks; the kernel would take them for open for five days."""
    async with scene(tmp_path) as here:
        world, tunnel, web, _ = here
        world.namespace("shop")
        await until(lambda: web.annotation is None)
        assert web.ruleset(), "the kernel still remembers connections for the last ones to end"
        streams = [await connect(way) for way in here.ways(45001)]
        for stream in streams:
            assert await echoes(stream)
        assert tunnel.captured == []
        await until(web.untouched)
        for stream in streams:
            reset(stream)
        world.namespace("shop", "ambient")
        await until(lambda: web.annotation == "enabled")
        await answered_at_once(tunnel, here.ways(45001))


async def test_connections_that_were_open_when_a_pod_joined_and_that_it_resets(
    tmp_path: Path,
) -> None:
    """The first packet of the next one reaches the tunnel, or it would be dropped by the guard."""
    async with scene(tmp_path, None) as here:
        streams = [await connect(way) for way in here.ways(45002)]
        for stream in streams:
            assert await echoes(stream)
        here.world.namespace("shop", "ambient")
        await until(lambda: here.web.annotation == "enabled")
        for stream in streams:
            assert await echoes(stream), "the kernel has seen a packet of it"
        assert here.tunnel.captured == []
        here.apps_reset()
        for stream in streams[:2]:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some(1)
        for stream in streams:
            reset(stream)
        await answered_at_once(here.tunnel, here.ways(45002))


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_a_pod_that_went_from_ebpf_to_nftables(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        web = here.web
        annotate(here.world, web, backend="ebpf")
        await until(lambda: by_ebpf(web))
        streams = [await connect(way) for way in here.ways(45003)]
        for stream in streams:
            assert await echoes(stream)
        assert len(here.tunnel.captured) == len(streams)
        annotate(here.world, web, backend="nftables")
        await until(lambda: by_nftables(web))
        for stream in streams:
            assert await echoes(stream)
        for stream in streams:
            reset(stream)
        await answered_at_once(here.tunnel, here.ways(45003))


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_a_pod_that_went_from_nftables_to_ebpf(tmp_path: Path) -> None:
    """The kernel remembers redirected connections, and must not translate their successors."""
    async with scene(tmp_path) as here:
        web = here.web
        streams = [await connect(way) for way in here.ways(45004)]
        for stream in streams:
            assert await echoes(stream)
        keeper = await connect(Way(web, (web.ip, 45104), NODE_IP))
        assert await echoes(keeper)
        for stream in streams:
            await stream.send_eof()
            assert await stream.receive_some(1) == b"", "ended in order, and remembered for a while"
            await stream.aclose()
        annotate(here.world, web, backend="ebpf")
        # eBPF first, then the redirects go; the change is over when both are done.
        await until(lambda: by_ebpf(web) and "redirect" not in web.ruleset())
        assert web.ruleset(), "the kernel still translates for one of them"
        await answered_at_once(here.tunnel, here.ways(45004))
        assert await echoes(keeper)
        reset(keeper)


@pytest.fixture
def programs() -> Iterator[None]:
    mount_bpf_fs()
    yield
    bpf_programs.remove_programs()
