"""Pods join and leave the mesh while they serve: real rules, real flows, a stand-in for ztunnel."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from ambient.net.core import wire
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import Pod, needs_cni, node, until

pytestmark = [pytest.mark.netns, needs_cni]

APP_PORT = 8080


class Echo:
    """An application in a pod, or on the node (no pod): answers what it hears."""

    def __init__(
        self, nursery: trio.Nursery, pod: Pod | None, family: int = socket.AF_INET
    ) -> None:
        sock = make(pod, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", APP_PORT))
        sock.listen()
        sock.setblocking(False)
        self.peers: list[str] = []
        nursery.start_soon(self._serve, trio.socket.from_stdlib_socket(sock))

    async def _serve(self, listener: trio.socket.SocketType) -> None:
        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    client, address = await listener.accept()
                    self.peers.append(address[0])
                    nursery.start_soon(self._answer, client)

    async def _answer(self, client: trio.socket.SocketType) -> None:
        with client:
            while data := await client.recv(1024):
                await client.send(data)


def make(pod: Pod | None, family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family) if pod is None else pod.netns.run(socket.socket, family)


async def dial(source: Pod | None, host: str, family: int = socket.AF_INET) -> trio.SocketStream:
    sock = make(source, family)
    sock.setblocking(False)
    client = trio.socket.from_stdlib_socket(sock)
    with trio.fail_after(5):
        await client.connect((host, APP_PORT))
    return trio.SocketStream(client)


async def echoes(stream: trio.SocketStream, text: bytes = b"still there?") -> bool:
    with trio.fail_after(5):
        await stream.send_all(text)
        return await stream.receive_some(1024) == text


async def test_enrolment_and_leaving_keep_established_connections(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop")
        web = await world.start("web")
        Echo(nursery, web)
        Echo(nursery, None)
        assert web.ruleset() == ""
        inbound = await dial(None, web.ip)
        outbound = await dial(web, "10.244.1.1")
        assert await echoes(inbound)
        assert await echoes(outbound)

        world.namespace("shop", "ambient")
        await until(lambda: web.annotation == "enabled")
        assert tunnel.heard[-1] == wire.Add(web.uid, "web", "shop", "web-sa")
        assert await echoes(inbound)
        assert await echoes(outbound)
        assert tunnel.captured == []
        tunnelled_in = await dial(None, web.ip)
        tunnelled_out = await dial(web, "10.244.1.1")
        assert await echoes(tunnelled_in)
        assert await echoes(tunnelled_out)
        assert tunnel.captured == [(15006, f"{web.ip}:8080"), (15001, "10.244.1.1:8080")]

        world.namespace("shop")
        await until(lambda: web.annotation is None)
        direct = await dial(None, web.ip)
        assert await echoes(direct)
        assert len(tunnel.captured) == 2, "new connections are direct at once"
        await trio.sleep(2.5)  # longer than the least drain
        for stream in (inbound, outbound, tunnelled_in, tunnelled_out):
            assert await echoes(stream)
        assert wire.Del(web.uid) not in tunnel.heard, "it still carries connections of the pod"

        await tunnelled_in.aclose()
        await tunnelled_out.aclose()
        await tunnel.until(wire.Del(web.uid))
        await until(lambda: web.ruleset() == "" and "100" not in web.routing())
        assert await echoes(inbound)
        assert await echoes(outbound)
        assert await echoes(direct)
        for stream in (inbound, outbound, direct):
            await stream.aclose()
        nursery.cancel_scope.cancel()
