"""Connections that open at the moment when a pod's backend and its socket map change together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ambient.net.io import bpf_programs, socket_map
from cni_plugin.core.backend import BACKEND_ANNOTATION
from cni_plugin.core.socket_map_wish import SOCKET_MAP_ANNOTATION
from tests.bpf import mount_bpf_fs, unavailable
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import PODS, Pod, World, needs_cni, node, until
from tests.netns.test_backends import by_ebpf, by_nftables
from tests.netns.test_enrol import Echo, dial, echoes

pytestmark = [
    pytest.mark.netns,
    needs_cni,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]

CHANGES = 8
AT_ONCE = 4


@pytest.fixture
def programs() -> Iterator[None]:
    mount_bpf_fs()
    yield
    bpf_programs.remove_programs()
    socket_map.remove_socket_map()


def change(world: World, pod: Pod, backend: str, carries: str) -> None:
    present = world.api.get(PODS, pod.namespace, pod.name)
    assert present is not None
    annotations = dict(present["metadata"].get("annotations") or {})
    annotations |= {BACKEND_ANNOTATION: backend, SOCKET_MAP_ANNOTATION: carries}
    metadata = {**present["metadata"], "annotations": annotations}
    world.api.put(PODS, {**present, "metadata": metadata})


@pytest.mark.usefixtures("programs")
async def test_every_connection_is_answered_while_both_change(tmp_path: Path) -> None:
    answered: list[str] = []
    done = trio.Event()

    async def keep_asking(source: Pod | None, host: str) -> None:
        while not done.is_set():
            stream = await dial(source, host)
            for text in (b"first", b"second"):
                assert await echoes(stream, text)
            await stream.aclose()
            answered.append(host)

    async with node(tmp_path, deadline_s=300) as world, world.agent():
        async with trio.open_nursery() as nursery:
            await nursery.start(FakeTunnel(world.zds).run)
            world.namespace("shop", "ambient")
            web = await world.start("web")
            Echo(nursery, web)
            Echo(nursery, None)
            async with trio.open_nursery() as asking:
                for _ in range(AT_ONCE):
                    asking.start_soon(keep_asking, None, web.ip)
                    asking.start_soon(keep_asking, web, "10.244.1.1")
                for _ in range(CHANGES):
                    for backend, carries, reached in (
                        ("ebpf", "both", by_ebpf),
                        ("nftables", "off", by_nftables),
                    ):
                        change(world, web, backend, carries)
                        await until(lambda reached=reached: reached(web))
                        before = len(answered)
                        await until(lambda before=before: len(answered) > before + 8 * AT_ONCE)
                done.set()
            assert {web.ip, "10.244.1.1"} == set(answered)
            nursery.cancel_scope.cancel()
