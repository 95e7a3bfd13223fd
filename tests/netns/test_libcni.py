"""The plugin under the reference runtime library, by its own tool: every verb, errors included.

Give the tool's path in AMBIENT_PEER_CNITOOL; without one these tests are skipped. It is had with
``go install github.com/containernetworking/cni/cnitool@v1.3.0``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from ambient.net.io.netns import Netns
from cni_plugin.io import records
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import CNI_BIN, Pod, World, inside, needs_cni, node, run

TOOL = os.path.realpath(os.environ.get("AMBIENT_PEER_CNITOOL") or "/nonexistent")
CACHE = "/var/lib/cni"
"""Where libcni remembers results; the tool cannot be told another place."""

pytestmark = [
    pytest.mark.netns,
    needs_cni,
    pytest.mark.skipif(
        not os.access(TOOL, os.X_OK), reason="AMBIENT_PEER_CNITOOL does not name a cnitool"
    ),
]


@pytest.fixture(autouse=True)
def own_cache() -> Any:
    absent = not os.path.isdir(CACHE)
    os.makedirs(CACHE, exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", CACHE)
    yield
    run("umount", CACHE)
    if absent:
        os.rmdir(CACHE)


async def cnitool(
    world: World, pod: Pod, verb: str, network: str = "pods", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The tool as somebody calls it, with what Kubernetes' runtimes say about a pod."""
    env = {
        "PATH": os.environ["PATH"],
        "NETCONFPATH": str(folder or world.net_dir),
        "CNI_PATH": f"{world.bin_dir}:{CNI_BIN}",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid};"
        f"K8S_POD_NAMESPACE={pod.namespace}",
    }
    command = [TOOL, verb, network, pod.path]
    return await trio.to_thread.run_sync(
        lambda: subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    )


def namespace_of(world: World, namespace: str) -> Pod:
    pod = Pod(world, "web", namespace, "11111111-2222-3333-4444-555555555555")
    run("ip", "netns", "add", Path(pod.path).name)
    world.pods.append(pod)
    inside(pod.path, "ip", "link", "set", "lo", "up")
    pod.netns = Netns.open(pod.path)
    world.declare(pod)
    return pod


async def test_a_pod_comes_is_checked_and_goes(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop", "ambient")
        pod = namespace_of(world, "shop")
        added = await cnitool(world, pod, "add")
        assert added.returncode == 0, added.stderr
        result = json.loads(added.stdout)
        assert result["cniVersion"] == "1.0.0"
        assert result["ips"][0]["address"].startswith("10.244.1.")
        assert 15001 in pod.captured()
        (record,) = records.read_all(world.run_dir)
        assert (record.name, record.netns) == ("web", pod.path)
        checked = await cnitool(world, pod, "check")
        assert checked.returncode == 0, checked.stderr
        record_path = next((Path(world.run_dir) / "pods").iterdir())
        record_path.unlink()
        checked = await cnitool(world, pod, "check")
        assert "was never added" in checked.stderr + checked.stdout
        deleted = await cnitool(world, pod, "del")
        assert deleted.returncode == 0, deleted.stderr
        again = await cnitool(world, pod, "del")
        assert again.returncode == 0, "a second time is no error"
        nursery.cancel_scope.cancel()


async def test_a_refusal_is_understood(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent():
        world.namespace("shop", "ambient")
        pod = namespace_of(world, "shop")
        refused = await cnitool(world, pod, "add")
        assert refused.returncode != 0
        assert "no ztunnel is connected" in refused.stderr + refused.stdout
        assert list(records.read_all(world.run_dir)) == []
        await cnitool(world, pod, "del")


async def test_status_and_garbage_collection_of_version_1_1(tmp_path: Path) -> None:
    """Debian's plugins do not speak 1.1.0, so the list has ours alone, with records to collect."""
    async with node(tmp_path) as world, world.agent():
        world.namespace("plain")
        pod = namespace_of(world, "plain")
        assert (await cnitool(world, pod, "add")).returncode == 0
        assert len(list(records.read_all(world.run_dir))) == 1
        (ours,) = [
            plugin
            for plugin in json.loads(world.conflist_text())["plugins"]
            if plugin["type"] == "ambient-cni"
        ]
        conflist = {"cniVersion": "1.1.0", "name": "newer", "plugins": [ours]}
        folder = tmp_path / "elsewhere"  # or the agent would take the plugin out of it
        folder.mkdir()
        (folder / "newer.conflist").write_text(json.dumps(conflist))
        status = await cnitool(world, pod, "status", "newer", folder)
        assert status.returncode == 0, status.stderr
        collected = await cnitool(world, pod, "gc", "newer", folder)
        assert collected.returncode == 0, collected.stderr
        kept = len(list(records.read_all(world.run_dir)))
        assert kept == 1, "the tool names no attachments, so none is known to be gone"
        deleted = await cnitool(world, pod, "del")
        assert deleted.returncode == 0, deleted.stderr
        assert list(records.read_all(world.run_dir)) == []
