"""Two hundred connections live through everything that the node agent does to their pod."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from ambient.net.core import rules, wire
from ambient.net.io import nft
from tests.bpf import unavailable
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import Pod, World, dual_chain, needs_cni, node, run, until
from tests.netns.test_enrol import APP_PORT, Echo, make

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]

SERVICE = "10.96.0.50"
LONGEST_WAIT_S = 1.0
"""By ``Bystander.clock``, so that it is no question of the machine. A packet that the kernel drops
would cost a second: that is how long TCP waits before it sends it again."""
EVERY_S = 0.25
STORY_S = 600.0
"""Only for a test that hangs. Seven agents are started one after another, each a new interpreter:
half a minute on a quiet machine."""


class Bystander:
    """A connection outside the mesh that is answered all the time, unless the machine is busy."""

    ROUND_S = 0.02

    def __init__(self) -> None:
        self._time = 0.0

    def clock(self) -> float:
        """Seconds that stand still while not even this connection gets on."""
        return self._time

    async def run(self, stream: trio.SocketStream) -> None:
        talk = Talk(stream, idle=False)
        while True:
            began = trio.current_time()
            await talk.once()
            await trio.sleep(self.ROUND_S / 2)
            self._time += min(trio.current_time() - began, self.ROUND_S)


class Talk:
    """One connection: says something, waits for the echo, and so on; or is idle."""

    def __init__(
        self,
        stream: trio.SocketStream,
        idle: bool,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.stream, self.idle, self._clock = stream, idle, clock
        self.said = 0
        self.longest_s = 0.0

    async def run(self) -> None:
        while not self.idle:
            await self.once()
            await trio.sleep(EVERY_S)

    async def once(self) -> None:
        began = self._clock()
        text = b"%d\n" % self.said
        await self.stream.send_all(text)
        heard = b""
        while heard != text:
            more = await self.stream.receive_some(1024)
            assert more, "the connection was closed"
            heard += more
        self.said += 1
        self.longest_s = max(self.longest_s, self._clock() - began)


async def connect(source: Pod | None, host: str) -> trio.SocketStream:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = make(source, family)
    sock.setblocking(False)
    client = trio.socket.from_stdlib_socket(sock)
    await client.connect((host, APP_PORT))
    return trio.SocketStream(client)


@asynccontextmanager
async def agent_process(world: World, **more: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The agent as a process of its own, which dies without a word."""
    settings = msgspec.to_builtins(world.settings())
    env = {
        name.upper(): ",".join(value) if isinstance(value, list | tuple) else str(value)
        for name, value in settings.items()
        if value is not None
    }
    command = [sys.executable, "-m", "cni_plugin.agent_main"]
    process = subprocess.Popen(command, env=os.environ | env | more, stderr=subprocess.STDOUT)  # noqa: ASYNC220
    try:
        # Not the files: the ones of an agent that was killed are still there.
        await until(lambda: answers(f"{world.run_dir}/pluginevent.sock"))
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def older_generation() -> rules.Ruleset:
    """The same capture by other chains, as an earlier or foreign agent might have made them."""
    wanted = rules.enrolled(rules.Options())
    tables = []
    for table in wanted.tables:
        chains = tuple(
            msgspec.structs.replace(chain, priority=chain.priority - 1) for chain in table.chains
        )
        tables.append(msgspec.structs.replace(table, chains=chains))
    return msgspec.structs.replace(wanted, tables=tuple(tables))


async def test_nothing_drops_whatever_the_agent_does(tmp_path: Path, each_backend: str) -> None:
    with ExitStack() as closing:
        await story(tmp_path, closing, each_backend)


async def story(tmp_path: Path, closing: ExitStack, backend: str) -> None:
    async with node(tmp_path, dual_chain, STORY_S) as world, trio.open_nursery() as nursery:
        for name in ("shop", "elsewhere"):
            world.namespace(name)
        tunnel = FakeTunnel(world.zds)
        nursery.start_soon(tunnel.run)
        async with agent_process(world) as agent:
            await until(lambda: tunnel.sessions and wire.SnapshotSent() in tunnel.heard)
            web, peer = await world.start("web"), await world.start("peer", "elsewhere")
            for pod in (web, peer):
                Echo(nursery, pod)
                Echo(nursery, pod, socket.AF_INET6)
            serve_at(SERVICE, peer)
            closing.callback(run, "nft", "delete table ip services")
            bystander = Bystander()
            beside = await connect(None, peer.ip)
            closing.callback(beside.socket.close)
            nursery.start_soon(bystander.run, beside)
            open_now = partial(open_talks, web, peer, closing, bystander.clock)
            talks = await open_now()
            for talk in talks:
                nursery.start_soon(talk.run)
            assert tunnel.captured == []

            world.namespace("shop", "ambient")
            await until(lambda: web.annotation == "enabled")
            await all_talked(talks)
            tunnelled = await open_now()
            for talk in tunnelled:
                nursery.start_soon(talk.run)
            await until(lambda: len(tunnel.captured) == len(tunnelled))
            talks += tunnelled
            assert len(talks) == 200

            world.namespace("shop")
            await until(lambda: web.annotation is None)
            await all_talked(talks)
            world.namespace("shop", "ambient")
            await until(lambda: web.annotation == "enabled")
            await all_talked(talks)

            agent.send_signal(signal.SIGKILL)
            agent.wait()
            await all_talked(talks)
        async with agent_process(world):
            await until(lambda: len(tunnel.sessions) > 1 and wire.SnapshotSent() in tunnel.heard)
            await all_talked(talks)

        if not unavailable():
            other = "nftables" if backend == "ebpf" else "ebpf"
            for now in (other, backend, other, backend):
                async with agent_process(world, REDIRECTION_BACKEND=now):
                    await until(lambda now=now: redirected_by(web) == now)
                    await all_talked(talks)
                    for source, host in ((peer, web.ip), (web, SERVICE), (web, peer.ip6)):
                        before = bystander.clock()
                        stream = await connect(source, host)
                        closing.callback(stream.socket.close)
                        talk = Talk(stream, idle=False, clock=bystander.clock)
                        await talk.once()
                        talk.longest_s = bystander.clock() - before
                        nursery.start_soon(talk.run)
                        tunnelled.append(talk)
                        talks.append(talk)
                    assert len(tunnel.captured) == len(tunnelled), f"with {now}"

        if backend == "nftables":
            nft.apply(web.netns, older_generation())
            await all_talked(talks)
        async with agent_process(world, AMBIENT_DNS_CAPTURE="true"):
            await until(lambda: 15053 in web.captured())
            await all_talked(talks)

            idle = [talk for talk in talks if talk.idle]
            assert len(idle) == 20
            for talk in idle:
                await talk.once()
            if backend == "nftables":
                assert nft.read(web.netns) == rules.enrolled(rules.Options(dns=True))
        assert len(tunnel.captured) == len(tunnelled), "no other connection was captured"
        longest = max(talk.longest_s for talk in talks)
        print(f"longest wait of {len(talks)} connections: {longest * 1000:.0f} ms")
        assert longest < LONGEST_WAIT_S
        nursery.cancel_scope.cancel()


def redirected_by(pod: Pod) -> str:
    """What redirects the pod's new connections; several at once are no answer."""
    translated = "redirect to :15001" in pod.ruleset()
    if pod.captured_by_ebpf():
        return "" if translated else "ebpf"
    return "nftables" if translated else ""


async def open_talks(
    web: Pod, peer: Pod, closing: ExitStack, clock: Callable[[], float]
) -> list[Talk]:
    """A hundred connections, into the pod and out of it."""
    ways = [
        (40, peer, web.ip),
        (25, web, peer.ip),
        (15, web, SERVICE),
        (10, peer, web.ip6),
        (10, web, peer.ip6),
    ]
    streams = [await connect(source, host) for count, source, host in ways for _ in range(count)]
    for stream in streams:
        closing.callback(stream.socket.close)
    return [Talk(stream, number % 10 == 0, clock) for number, stream in enumerate(streams)]


async def all_talked(talks: list[Talk]) -> None:
    """Every connection that is not idle has had two more answers."""
    before = [talk.said for talk in talks]
    await until(
        lambda: all(
            talk.idle or talk.said >= said + 2 for talk, said in zip(talks, before, strict=True)
        )
    )


def serve_at(address: str, pod: Pod) -> None:
    """A service address, as kube-proxy makes one."""
    rule = f"ip daddr {address} tcp dport {APP_PORT} dnat to {pod.ip}:{APP_PORT}"
    run("nft", "add table ip services")
    run("nft", "add chain ip services prerouting { type nat hook prerouting priority dstnat; }")
    run("nft", f"add rule ip services prerouting {rule}")
