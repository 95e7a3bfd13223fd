"""A node whose disk is full: exact errors, nothing half-written, all well when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from cni_plugin.io import records
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import CniFailed, needs_cni, node, run, until
from tests.netns.test_node_agent import METRICS, answer

pytestmark = [pytest.mark.netns, needs_cni]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A few pages for this folder, and a file that takes all that is left when it is ``fill``ed."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=32k,nr_inodes=64", "tmpfs", str(folder))
    try:
        yield folder / ".ballast"
    finally:
        run("umount", "-l", str(folder))


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_no_room_for_the_pods_record(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        with small_disk(Path(world.run_dir)) as ballast:
            world.namespace("shop", "ambient")
            async with world.agent():
                await nursery.start(FakeTunnel(world.zds).run)
                first = await world.start("first")
                await until(lambda: first.annotation == "enabled")
                fill(ballast)
                with pytest.raises(CniFailed) as failed:
                    await world.start("web")
                assert failed.value.code == 5
                assert "No space left" in failed.value.message
                assert world.run_dir in failed.value.message
                assert 15001 in first.captured(), "the others are served on"
                world.namespace("kube-system")
                assert (await world.start("dns", "kube-system")).ip
                names = {each.name for each in records.read_all(world.run_dir)}
                assert names == {"first"}, "and nothing is half-written"
                ballast.unlink()
                second = await world.start("second")
                await until(lambda: second.annotation == "enabled")
        nursery.cancel_scope.cancel()


async def test_no_room_for_the_cni_configuration(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        before = world.conflist_text()
        with small_disk(world.net_dir) as ballast:
            (world.net_dir / "10-pods.conflist").write_text(before)
            async with world.agent(monitoring_port=METRICS):
                fill(ballast)
                rewritten = before.replace('"pods"', '"pods2"')
                (world.net_dir / "10-pods.conflist").write_text(rewritten)
                while 'CREATE_CNI_CONFIG_FAILURE"} 0.0' in await answer(METRICS, "/metrics"):
                    await trio.sleep(0.02)
                assert world.conflist_text() == rewritten, "as the runtime can use it"
                left = {path.name for path in world.net_dir.iterdir()}
                assert left == {"10-pods.conflist", ".ballast"}
                ballast.unlink()
                await until(lambda: "ambient-cni" in world.conflist_text())
