"""The agent has the connections of its pods joined, with both redirections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from ambient.net.io import socket_map
from cni_plugin.core.socket_map_wish import SOCKET_MAP_ANNOTATION
from cni_plugin.io import cleanup
from tests import bpf
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import PODS, Pod, World, needs_cni, node, until
from tests.netns.test_enrol import Echo, dial, echoes

pytestmark = [
    pytest.mark.netns,
    needs_cni,
    pytest.mark.skipif(bool(bpf.unavailable()), reason=bpf.unavailable() or "-"),
    pytest.mark.usefixtures("each_backend"),
]
FOLDER = Path(socket_map.FOLDER)


@pytest.fixture(autouse=True)
def clean_node() -> Iterator[None]:
    yield
    socket_map.remove_socket_map()


def members() -> int:
    if not FOLDER.exists() or not any(FOLDER.glob("*/link")):
        return 0
    with socket_map.open_socket_map("/proc") as found:
        return len(found.members())


def joined() -> int:
    with socket_map.open_socket_map("/proc") as found:
        return found.counts()["joined"] - 1  # the trial's


def bytes_by_tcp(stream: trio.SocketStream) -> int:
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert isinstance(info, bytes)
    return int.from_bytes(info[200:208], "little")


def annotate(world: World, pod: Pod, value: str) -> None:
    obj = world.api.get(PODS, pod.namespace, pod.name)
    assert obj is not None
    annotations = {**(obj["metadata"].get("annotations") or {}), SOCKET_MAP_ANNOTATION: value}
    world.api.put(PODS, {**obj, "metadata": {**obj["metadata"], "annotations": annotations}})


async def test_pods_of_the_mesh_are_joined_and_no_others(tmp_path: Path) -> None:
    async with node(tmp_path) as world, AsyncExitStack() as closing, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        world.namespace("plain")
        Echo(nursery, None)
        async with world.agent(socket_map="both"):
            await nursery.start(FakeTunnel(world.zds).run)
            await until(lambda: any(FOLDER.glob("*/link")))
            web = await world.start("web")
            other = await world.start("other", "plain")
            Echo(nursery, web)
            Echo(nursery, other)
            await until(lambda: members() == 1)
            outbound = await closing.enter_async_context(await dial(web, "10.244.1.1"))
            assert await echoes(outbound)
            assert joined() == 1
            assert bytes_by_tcp(outbound) == 0
            inbound = await closing.enter_async_context(await dial(None, web.ip))
            assert await echoes(inbound)
            assert joined() == 2, "the tunnel and the application"
            plain = await closing.enter_async_context(await dial(None, other.ip))
            assert await echoes(plain)
            assert joined() == 2
            annotate(world, web, "false")
            await until(lambda: members() == 0)
            assert await echoes(outbound), "what is joined stays as it is"
            later = await closing.enter_async_context(await dial(web, "10.244.1.1"))
            assert await echoes(later)
            assert joined() == 2
            annotate(world, web, "send")
            await until(lambda: members() == 1)
            world.label(web, "none")
            await until(lambda: members() == 0)
            assert await echoes(outbound)
        nursery.cancel_scope.cancel()


async def test_connections_outlive_the_agent_and_the_map(tmp_path: Path) -> None:
    async with node(tmp_path) as world, AsyncExitStack() as closing, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        Echo(nursery, None)
        tunnel = FakeTunnel(world.zds)
        async with world.agent(socket_map="both"):
            await nursery.start(tunnel.run)
            await until(lambda: any(FOLDER.glob("*/link")))
            web = await world.start("web")
            await until(lambda: members() == 1)
            first = await closing.enter_async_context(await dial(web, "10.244.1.1"))
            assert await echoes(first)
        second = await closing.enter_async_context(await dial(web, "10.244.1.1"))
        assert await echoes(second), "without an agent the programs go on"
        assert joined() == 2
        async with world.agent(socket_map="both"):
            await until(lambda: len(tunnel.sessions) > 1)
            assert await echoes(first)
            assert joined() >= 2, "and the next one finds them"
        async with world.agent(socket_map="off"):
            await until(lambda: not FOLDER.exists())
            assert await echoes(first)
            assert await echoes(second)
            third = await closing.enter_async_context(await dial(web, "10.244.1.1"))
            assert await echoes(third)
            assert bytes_by_tcp(third) > 0 == bytes_by_tcp(first)
        nursery.cancel_scope.cancel()


async def test_an_uninstallation_takes_it_off_the_node(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        settings = world.settings(socket_map="send")
        async with world.agent(socket_map="send"):
            await until(lambda: any(FOLDER.glob("*/link")))
        assert cleanup.Trace("socket map", str(FOLDER)) in cleanup.of_installation(settings)
        cleanup.remove_installation(settings)
        assert cleanup.of_installation(settings) == []


async def test_a_node_that_cannot_says_why_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_map, "_KERNEL_TYPES", str(tmp_path / "absent"))
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        async with world.agent(socket_map="both", health_port=18123):
            await nursery.start(FakeTunnel(world.zds).run)
            web = await world.start("web")
            await until(lambda: web.annotation == "enabled")
            await until_status("unavailable: the kernel's type information")
        nursery.cancel_scope.cancel()


async def until_status(text: str) -> None:
    while True:
        async with await trio.open_tcp_stream("127.0.0.1", 18123) as stream:
            await stream.send_all(b"GET /status HTTP/1.0\r\n\r\n")
            if text.encode() in b"".join([part async for part in stream]):
                return
        await trio.sleep(0.05)
