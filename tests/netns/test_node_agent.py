"""What node operators meet: boots, repairs, reports, removal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ambient.api.errors import MeshError
from cni_plugin import app, uninstall
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import NODE, PODS, CniFailed, Pod, World, needs_cni, node, run, until
from tests.netns.test_enrol import Echo, dial, echoes

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]

DAEMON_SETS = "/apis/apps/v1/daemonsets"
HEALTH, METRICS = 8000, 15014


async def answer(port: int, path: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://127.0.0.1:{port}{path}")).text


async def metric(name: str) -> float:
    lines = (await answer(METRICS, "/metrics")).splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), -1.0)


async def until_metric(name: str, value: float) -> None:
    while await metric(name) != value:
        await trio.sleep(0.05)


async def started_without_plugin(world: World, name: str, **metadata: Any) -> Pod:
    """A pod whose runtime did not call us; its process is all that leads to it."""
    text = world.conflist_text()
    conflist = json.loads(text)
    conflist["plugins"] = [each for each in conflist["plugins"] if each["type"] != "ambient-cni"]
    (world.net_dir / "10-pods.conflist").write_text(json.dumps(conflist))
    pod = await world.start(name)
    process = world.proc / str(1000 + len(world.pods))
    (process / "ns").mkdir(parents=True)
    (process / "ns/net").symlink_to(pod.path)
    (process / "cgroup").write_text(f"0::/kubepods/pod{pod.uid}/sandbox\n")
    (process / "stat").write_text("7 (app) S " + " ".join(["7"] * 40))
    obj = world.api.get(PODS, pod.namespace, name)
    assert obj is not None
    world.api.put(PODS, {**obj, "metadata": {**obj["metadata"], **metadata}})
    return pod


ENABLED = {"annotations": {"ambient.istio.io/redirection": "enabled"}}
OWNED = {"ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "r", "controller": True}]}


async def test_pain_08_a_pod_that_says_enabled_but_is_not_redirected_is_mended(
    tmp_path: Path,
) -> None:
    """As after a reboot: the annotation is from before, the sandbox is new, the plugin was late."""
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        web = await started_without_plugin(world, "web", **ENABLED)
        async with world.agent(monitoring_port=METRICS):
            # No ztunnel yet, so it cannot be mended yet; but it is seen.
            await until_metric("ambient_cni_pods_not_redirected", 1)
            await nursery.start(FakeTunnel(world.zds).run)
            await until(lambda: 15006 in web.captured())
            await until_metric("ambient_cni_pods_not_redirected", 0)
            mended = 'istio_cni_repair_pods_repaired_total{result="success",type="repair"}'
            await until_metric(mended, 1)
        assert any("started without the mesh's plugin" in text for text in world.warnings())
        nursery.cancel_scope.cancel()


async def test_pain_08_or_it_is_started_again_where_the_operator_prefers_that(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        world.namespace("later")
        async with world.agent(if_agent_absent="start"):
            pass
        owned = await started_without_plugin(world, "owned", **OWNED)
        alone = await started_without_plugin(world, "alone")
        async with world.agent(repair="evict"):
            await nursery.start(FakeTunnel(world.zds).run)
            await until(lambda: world.api.get(PODS, "shop", owned.name) is None)
            await until(lambda: alone.annotation == "enabled")  # nobody would replace it
        assert any("it is evicted" in text for text in world.warnings())
        assert f"POST {PODS.replace('pods', 'namespaces/shop/pods')}/owned/eviction" in (
            world.api.requests
        )
        nursery.cancel_scope.cancel()


async def test_pain_08_a_label_that_comes_later_never_costs_a_restart(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop")
        web = await started_without_plugin(world, "web", **OWNED)
        async with world.agent(repair="evict"):
            await nursery.start(FakeTunnel(world.zds).run)
            world.namespace("shop", "ambient")
            await until(lambda: web.annotation == "enabled")
        nursery.cancel_scope.cancel()


async def test_a_new_sandbox_that_the_plugin_missed_is_found_by_its_address(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop", "ambient")
        web = await world.start("web")
        await until(lambda: web.annotation == "enabled")
        again = await started_without_plugin(world, "again", **ENABLED)
        # The same pod object, from now on with the address of the new sandbox.
        for record in (Path(world.run_dir) / "pods").iterdir():
            record.unlink()
        process = next(path for path in world.proc.iterdir() if path.name != "1")
        (process / "cgroup").write_text(f"0::/kubepods/pod{web.uid}/sandbox\n")
        world.api.remove(PODS, "shop", "again")
        web.ip = web.ip6 = again.ip
        world.declare(web)
        await until(lambda: 15006 in again.captured())
        nursery.cancel_scope.cancel()


async def test_pain_13_connections_that_stay_outside_are_counted_for_the_user(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop")
        web = await world.start("web")
        Echo(nursery, web)
        streams = [await dial(None, web.ip) for _ in range(3)]
        for stream in streams:
            assert await echoes(stream)
        world.namespace("shop", "ambient")
        await until(lambda: any("3 connections that were open" in t for t in world.warnings()))
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_pain_38_host_network_is_not_eligible_and_says_so(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent():
        world.namespace("shop", "ambient")
        world.namespace("plain")
        for namespace in ("shop", "plain"):
            world.api.put(
                PODS,
                {
                    "metadata": {"name": "exporter", "namespace": namespace, "uid": namespace},
                    "spec": {"nodeName": NODE, "hostNetwork": True},
                    "status": {"phase": "Running", "podIP": "10.0.0.1"},
                },
            )
        await until(lambda: world.warnings())
        (text,) = world.warnings()
        assert text.startswith("not eligible: hostNetwork")


async def test_calls_installations_and_events_are_counted(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(monitoring_port=METRICS):
        world.namespace("shop", "ambient")
        with pytest.raises(CniFailed):
            await world.start("web")
        world.namespace("plain")
        await world.start("other", "plain")
        text = await answer(METRICS, "/metrics")
        for line in (
            'istio_cni_plugin_requests_total{response_code="503"} 1.0',
            'istio_cni_plugin_requests_total{response_code="200"} 1.0',
            'istio_cni_installs_total{result="SUCCESS"} 1.0',
            'istio_cni_installs_total{result="CREATE_CNI_CONFIG_FAILURE"} 0.0',
            'nodeagent_reconcile_events_total{type="add"} 2.0',
        ):
            assert line in text


async def test_pain_43_the_node_shows_its_backend(tmp_path: Path, each_backend: str) -> None:
    async with node(tmp_path) as world:
        async with world.agent(monitoring_port=METRICS, health_port=HEALTH):
            assert await metric(f'ambient_cni_backend{{backend="{each_backend}"}}') == 1
            status = json.loads(await answer(HEALTH, "/status"))
            assert status["backend"] == each_backend
            assert status["redirected"] == {"nftables": 0, "ebpf": 0}
            assert status["installed"] is True


async def test_pain_44_the_folders_of_the_distribution_are_found(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        root = tmp_path / "host"
        net_dir = root / "var/lib/rancher/k3s/agent/etc/cni/net.d"
        bin_dir = root / "var/lib/rancher/k3s/data/cni"
        for folder in (net_dir, bin_dir):
            folder.mkdir(parents=True)
        path = net_dir / "10-flannel.conflist"
        path.write_text(world.conflist_text())
        settings = world.settings(cni_net_dir="auto", cni_bin_dir="auto", host_root=str(root))
        async with running(settings):
            await until(lambda: "ambient-cni" in path.read_text())
            assert (bin_dir / "ambient-cni").exists()
        with pytest.raises(MeshError, match="no known CNI folders"):
            await app.run(world.settings(cni_net_dir="auto", host_root="/nowhere"), trio.Event())


@asynccontextmanager
async def running(settings: Any) -> AsyncIterator[None]:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.run, settings, stopping)
        try:
            yield
        finally:
            stopping.set()


async def test_a_second_agent_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        web = await world.start("web")
        rules = web.ruleset()
        with pytest.RaisesGroup(pytest.RaisesExc(MeshError, match="another")):
            await app.run(world.settings(), trio.Event())
        assert web.ruleset() == rules
        await world.start("other")
        assert len(tunnel.sessions) == 1, "the first one serves on"
        nursery.cancel_scope.cancel()


async def test_a_rewritten_configuration_is_repaired_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        path = world.net_dir / "10-pods.conflist"
        original = path.read_text()
        async with world.agent():
            for _ in range(3):
                path.with_name("new").write_text(original)  # atomically, as good plugins do
                path.with_name("new").rename(path)
                with trio.fail_after(10):
                    await until(lambda: "ambient-cni" in world.conflist_text())
            (world.bin_dir / "ambient-cni").unlink()
            await until(lambda: (world.bin_dir / "ambient-cni").exists())


async def test_pain_08_a_file_of_our_own_stays_ahead_of_the_network_plugins(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as world:
        path, owned = world.net_dir / "10-pods.conflist", world.net_dir / "02-istio-cni.conflist"
        original = path.read_text()
        async with running(world.settings(istio_owned_cni_config=True)):
            await until(owned.exists)
            assert path.read_text() == original
        path.unlink()  # the node boots; the network plugin writes its file later
        async with running(world.settings(istio_owned_cni_config=True)):
            await until(lambda: (Path(world.run_dir) / "pluginevent.sock").exists())
            path.write_text(original.replace('"pods"', '"other"'))
            await until(lambda: '"other"' in owned.read_text())
        assert "ambient-cni" in owned.read_text()


async def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with node(tmp_path) as world:
        run("mount", "--bind", str(world.net_dir), str(world.net_dir))
        run("mount", "-o", "remount,ro,bind", str(world.net_dir))
        try:
            async with running(world.settings(health_port=HEALTH)):
                seen = ""
                while "Read-only file system" not in seen:
                    await trio.sleep(0.05)
                    seen += capsys.readouterr().out
                assert "10-pods.conflist" in seen
                assert "without readOnly" in seen
                assert "waiting for the CNI configuration" in await answer(HEALTH, "/readyz")
                run("umount", str(world.net_dir))
                await until(lambda: "ambient-cni" in world.conflist_text())
        finally:
            run("umount", str(world.net_dir), check=False)


def daemon_set(world: World, **spec: Any) -> None:
    metadata = {"name": "istio-cni-node", "namespace": "istio-system"}
    world.api.put(
        DAEMON_SETS, {"metadata": metadata, "spec": {"template": {"spec": spec}}, "status": {}}
    )


async def test_an_upgrade_leaves_the_plugin_and_a_removal_takes_it_along(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        original = json.loads(world.conflist_text())
        daemon_set(world)
        world.api.put("/api/v1/nodes", {"metadata": {"name": NODE, "labels": {}}})
        async with world.agent():
            pass
        assert "ambient-cni" in world.conflist_text(), "a successor comes"
        assert "istio-inpod-probes-v4" in run("nft", "list", "ruleset")
        async with world.agent():
            world.api.away = True
        world.api.away = False
        assert "ambient-cni" in world.conflist_text(), "no answer is no removal"
        async with world.agent():
            world.api.remove(DAEMON_SETS, "istio-system", "istio-cni-node")
        assert json.loads(world.conflist_text()) == original
        assert list(world.bin_dir.iterdir()) == []
        assert run("nft", "list", "ruleset") == ""


async def test_pain_11_uninstall_lists_cleans_and_proves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], each_backend: str
) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        original = json.loads(world.conflist_text())
        async with world.agent():
            await nursery.start(FakeTunnel(world.zds).run)
            web = await world.start("web")
            await until(lambda: web.annotation == "enabled")
            with pytest.raises(MeshError, match="it would install everything again"):
                await uninstall.uninstall(world.settings(), trio.Event())
        guests = tmp_path / "run" / "guests"
        guests.mkdir()
        (guests / "guest.shop.billing.json").write_text("{}")
        expected = [
            f"plugin: {world.net_dir}/10-pods.conflist",
            f"plugin: {world.bin_dir}/ambient-cni",
            "rules of the node: table inet istio-ambient-nat",
            f"rules of a pod: shop/web ({web.path})",
            *(["eBPF programs: /sys/fs/bpf/ambient"] if each_backend == "ebpf" else ()),
            f"files of the agent: {world.run_dir}/pods",
            f"files of the agent: {guests}",
            "annotation: shop/web",
        ]
        assert await output(uninstall.dry_run, world, capsys) == [
            f"would remove {trace}" for trace in expected
        ]
        assert web.captured(), "a dry run changes nothing"

        *removed, last = await output(uninstall.uninstall, world, capsys)
        assert removed == [f"removed {trace}" for trace in expected]
        assert last == CLEAN
        assert await output(uninstall.dry_run, world, capsys) == [CLEAN]
        assert json.loads(world.conflist_text()) == original
        assert web.untouched()
        assert run("nft", "list", "ruleset") == ""
        assert web.annotation is None
        nursery.cancel_scope.cancel()


CLEAN = "the node is clean: nothing of the node agent is on it"


async def output(task: Any, world: World, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    await task(world.settings(), trio.Event())
    return capsys.readouterr().out.splitlines()
