"""The plugin behind Debian's plugins, executed as a container runtime does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from ambient.net.core import wire
from cni_plugin import uninstall
from cni_plugin.io import records
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import CniFailed, Pod, bridge_chain, needs_cni, node, ptp_chain, until

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]


@pytest.mark.parametrize("chain", [ptp_chain, bridge_chain])
async def test_a_pod_of_the_mesh_is_captured_before_its_first_process_runs(
    tmp_path: Path, chain: object
) -> None:
    async with node(tmp_path, chain) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop", "ambient")
        pod = Pod(world, "web", "shop", "11111111-2222-3333-4444-555555555555")
        world.declare(pod)
        result = await world.sandbox(pod)
        assert result["ips"][0]["address"].startswith(pod.ip)
        assert result["cniVersion"] == "1.0.0"
        assert tunnel.heard == [wire.SnapshotSent(), wire.Add(pod.uid, "web", "shop", "web-sa")]
        assert 15001 in pod.captured()
        assert "lookup 100" in pod.routing()
        await until(lambda: pod.annotation == "enabled")
        (record,) = records.read_all(world.run_dir)
        assert record.ips[0] == pod.ip
        assert (record.device, record.inode) == pod.netns.key
        await world.call("CHECK", pod, previous=result)
        await world.stop(pod)
        await tunnel.until(wire.Del(pod.uid))
        assert list(records.read_all(world.run_dir)) == []
        nursery.cancel_scope.cancel()


async def test_a_pod_outside_the_mesh_is_left_as_it_was(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent():
        world.namespace("shop")
        pod = await world.start("web")
        assert pod.untouched()
        assert pod.annotation is None


async def test_without_an_agent_pods_wait_and_are_told_why(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        async with world.agent():
            world.namespace("shop")
        with pytest.raises(CniFailed) as failed:
            await world.start("web")
        assert failed.value.code == 11
        assert f"{world.run_dir}/pluginevent.sock" in failed.value.message
        assert "if_agent_absent" in failed.value.details
        assert list(records.read_all(world.run_dir)) == []


@pytest.mark.parametrize("namespace", ["kube-system", "istio-system"])
async def test_pain_10_without_an_agent_the_cluster_still_comes_up(
    tmp_path: Path, namespace: str
) -> None:
    async with node(tmp_path) as world:
        async with world.agent():
            world.namespace(namespace)
        assert (await world.start("dns", namespace)).ip


async def test_without_an_agent_pods_start_where_the_operator_prefers_that(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        async with world.agent(if_agent_absent="start"):
            world.namespace("shop", "ambient")
        pod = await world.start("web")
        # When the agent is back it finds the pod by its record, and takes it in.
        async with world.agent(), trio.open_nursery() as nursery:
            await nursery.start(FakeTunnel(world.zds).run)
            await until(lambda: pod.annotation == "enabled")
            assert 15006 in pod.captured()
            nursery.cancel_scope.cancel()


async def test_pain_09_a_pod_of_the_mesh_does_not_start_without_its_tunnel(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent():
        world.namespace("shop", "ambient")
        with pytest.raises(CniFailed) as failed:
            await world.start("web")
        assert failed.value.code == 11
        assert "no ztunnel is connected" in failed.value.message
        (pod,) = world.pods
        assert pod.untouched()
        await until(lambda: any("no ztunnel is connected" in text for text in world.warnings()))


async def test_a_namespace_that_vanished_is_named(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent():
        world.namespace("shop")
        pod = Pod(world, "web", "shop", "11111111-2222-3333-4444-555555555555")
        pod.path = "/run/netns/gone"
        conf = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "cni_agent_run_dir": world.run_dir,
            "prevResult": {"cniVersion": "1.0.0", "ips": []},
        }
        with pytest.raises(CniFailed, match="/run/netns/gone") as failed:
            await trio.to_thread.run_sync(world.execute, "ambient-cni", "ADD", pod, conf)
        assert failed.value.code == 4


async def test_the_configuration_is_repaired_and_taken_back(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        path = world.net_dir / "10-pods.conflist"
        original = json.loads(path.read_text())
        async with world.agent():
            path.write_text(json.dumps(original))  # another CNI rewrites its file
            await until(lambda: "ambient-cni" in world.conflist_text())
        await uninstall.uninstall(world.settings(), trio.Event())
        assert json.loads(path.read_text()) == original
        assert list(world.bin_dir.iterdir()) == []
