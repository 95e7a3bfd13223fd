"""Pods go from one redirection to the other, or cannot: what the agent does and says then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ambient.net.io import bpf_compiler, bpf_programs, tunnel_flows
from ambient.net.io.bpf_flows import netns_cookie
from cni_plugin.core.backend import BACKEND_ANNOTATION
from cni_plugin.io.redirection import NO_LISTENER
from tests.bpf import mount_bpf_fs, unavailable
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import PODS, Pod, World, dual_chain, needs_cni, node, until
from tests.netns.test_enrol import Echo, dial, echoes

pytestmark = [pytest.mark.netns, needs_cni]
needs_bpf = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

INTERFACES = "istio.io/reroute-virtual-interfaces"


@pytest.fixture
def programs() -> Any:
    mount_bpf_fs()
    yield
    bpf_programs.remove_programs()


def annotate(world: World, pod: Pod, **changes: str | None) -> None:
    """``None`` takes an annotation away."""
    present = world.api.get(PODS, pod.namespace, pod.name)
    assert present is not None
    names = {"backend": BACKEND_ANNOTATION, "interfaces": INTERFACES}
    annotations = dict(present["metadata"].get("annotations") or {})
    for name, value in changes.items():
        annotations.pop(names[name], None)
        if value is not None:
            annotations[names[name]] = value
    metadata = {**present["metadata"], "annotations": annotations}
    world.api.put(PODS, {**present, "metadata": metadata})


def by_ebpf(pod: Pod) -> bool:
    return pod.captured_by_ebpf() == {15001, 15006} and "redirect" not in pod.ruleset()


def by_nftables(pod: Pod) -> bool:
    return not pod.captured_by_ebpf() and pod.captured() == {15001, 15006}


async def said(capsys: pytest.CaptureFixture[str], text: str) -> str:
    """Everything that was logged, up to this."""
    seen = ""
    while text not in seen:
        await trio.sleep(0.02)
        seen += capsys.readouterr().out
    return seen


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_a_pod_changes_its_backend_by_annotation_while_it_serves(tmp_path: Path) -> None:
    async with node(tmp_path, dual_chain) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop", "ambient")
        web = await world.start("web")
        Echo(nursery, web)
        Echo(nursery, None)
        assert by_nftables(web)
        translated = await dial(web, "10.244.1.1")
        entered = await dial(None, web.ip)
        assert await echoes(translated)
        assert await echoes(entered)
        assert tunnel_flows.translated(web.netns) >= 2

        annotate(world, web, backend="ebpf")
        await until(lambda: by_ebpf(web))
        direct = await dial(web, "10.244.1.1")
        assert await echoes(direct)
        for stream in (translated, entered, direct):
            assert await echoes(stream)
        assert [port for port, _ in tunnel.captured] == [15001, 15006, 15001]
        assert web.ruleset(), "the kernel translates for connections that began with nat"
        await translated.aclose()
        await entered.aclose()
        with trio.fail_after(20):
            await until(lambda: web.ruleset() == "")
        assert "lookup 100" in web.routing()
        assert await echoes(direct)

        annotate(world, web, backend=None)
        await until(lambda: by_nftables(web))
        assert await echoes(direct)
        inbound = await dial(None, web.ip)
        assert await echoes(inbound)
        assert [port for port, _ in tunnel.captured] == [15001, 15006, 15001, 15006]
        for stream in (direct, inbound):
            await stream.aclose()
        nursery.cancel_scope.cancel()


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_a_tunnel_that_was_there_before_the_programs_gets_them_when_it_is_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Istio's ztunnel does not say where it listens; ours does."""
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        async with trio.open_nursery() as life:
            async with world.agent():
                tunnel = FakeTunnel(world.zds, announces=False)
                await life.start(tunnel.run)
                web = await world.start("web")
                await until(lambda: web.annotation == "enabled")
            async with world.agent(redirection_backend="ebpf"):
                seen = await said(capsys, "backend.fell_back")
                assert NO_LISTENER in seen
                assert by_nftables(web), "it is in the mesh all the same"
                life.cancel_scope.cancel()
        async with world.agent(redirection_backend="ebpf"):
            await nursery.start(FakeTunnel(world.zds, announces=False).run)
            with trio.fail_after(20):
                await until(lambda: by_ebpf(web))
        nursery.cancel_scope.cancel()


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_virtual_interfaces_keep_a_pod_with_nftables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        async with world.agent(redirection_backend="auto"):
            await nursery.start(FakeTunnel(world.zds).run)
            world.namespace("shop", "ambient")
            web = await world.start("web")
            await until(lambda: web.annotation == "enabled")
            assert by_ebpf(web)
            annotate(world, web, interfaces="tap0")
            await until(lambda: "redirect to :15001" in web.ruleset())
            assert "virtual interfaces" in await said(capsys, "backend.fell_back")
            await until(lambda: not web.captured_by_ebpf())
            annotate(world, web, interfaces=None)
            await until(lambda: by_ebpf(web))
        nursery.cancel_scope.cancel()


async def test_a_node_without_ebpf_says_why_and_uses_nftables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        nowhere = str(tmp_path / "bpf" / "ambient")
        async with world.agent(redirection_backend="ebpf", bpf_dir=nowhere):
            await nursery.start(FakeTunnel(world.zds).run)
            world.namespace("shop", "ambient")
            web = await world.start("web")
            seen = await said(capsys, "backend.fell_back")
            assert "bpf.unavailable" in seen
            assert f"mount -t bpf bpf {tmp_path}/bpf" in seen
            await until(lambda: web.annotation == "enabled")
            assert by_nftables(web)
        nursery.cancel_scope.cancel()


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_without_a_compiler_pods_are_left_in_peace_and_can_be_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bcc was there when the pod was enrolled, and is not when the agent is started again."""
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        async with world.agent(redirection_backend="ebpf"):
            tunnel = FakeTunnel(world.zds)
            await nursery.start(tunnel.run)
            web = await world.start("web")
            Echo(nursery, None)
            await until(lambda: web.annotation == "enabled")
            stream = await dial(web, "10.244.1.1")
            assert by_ebpf(web)
        monkeypatch.setattr(bpf_compiler, "_COMMAND", ("-c", "raise SystemExit('no bcc here')"))
        async with world.agent(redirection_backend="ebpf"):
            assert "no bcc here" in await said(capsys, "backend.fell_back")
            await until(lambda: by_nftables(web))
            assert await echoes(stream)
            again = await dial(web, "10.244.1.1")
            assert await echoes(again)
            assert [port for port, _ in tunnel.captured] == [15001, 15001]
            for each in (stream, again):
                await each.aclose()
        nursery.cancel_scope.cancel()


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_pods_that_end_while_no_agent_is_there_are_forgotten(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        async with world.agent(redirection_backend="ebpf"):
            await nursery.start(FakeTunnel(world.zds).run)
            web, gone = await world.start("web"), await world.start("gone")
            await until(lambda: "enabled" == web.annotation == gone.annotation)
            kept = netns_cookie(web.netns)
        await world.stop(gone)
        async with world.agent(redirection_backend="ebpf"):
            with trio.fail_after(20):
                await until(lambda: cookies() == [kept])
            await world.stop(web)
            await until(lambda: cookies() == [])
        nursery.cancel_scope.cancel()


def cookies() -> list[int]:
    maps = bpf_programs.open_maps()
    assert maps is not None
    found = [int.from_bytes(key, "little") for key in maps["PODS"].keys()]  # noqa: SIM118
    for each in maps.values():
        each.close()
    return found


@needs_bpf
@pytest.mark.usefixtures("programs")
async def test_an_agent_whose_maps_are_full_still_enrols_pods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        async with world.agent(redirection_backend="ebpf"):
            await nursery.start(FakeTunnel(world.zds).run)
            maps = bpf_programs.open_maps()
            assert maps is not None
            for number in range(1 << 40, (1 << 40) + maps["PODS"].max_entries):
                maps["PODS"].put(number.to_bytes(8, "little"), bytes(36))
            for each in maps.values():
                each.close()
            web = await world.start("web")
            assert "a BPF map is full" in await said(capsys, "backend.fell_back")
            await until(lambda: web.annotation == "enabled")
            assert by_nftables(web)
        nursery.cancel_scope.cancel()
