"""The kubelet reaches the pods of the mesh directly, and nobody else does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from ambient.net.core import wire
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import Pod, World, dual_chain, inside, needs_cni, node, run, until
from tests.netns.test_enrol import APP_PORT, Echo, dial, echoes

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]

PROBE = "169.254.7.127"
PROBE_V6 = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"


def probes_as_us(world: World) -> None:
    """The test's own user is the kubelet's: what it opens on the node is a health probe."""
    (world.proc / "1" / "status").write_text("Uid:\t0\t0\t0\t0\n")


def probed(world: World) -> str:
    """The node's sets as nft shows them."""
    return run("nft", "list", "sets", "inet")


async def probe(pod: Pod, family: int = socket.AF_INET) -> bool:
    """As a tcpSocket or httpGet probe: a connection, a question, an answer."""
    host = pod.ip if family == socket.AF_INET else pod.ip6
    stream = await dial(None, host, family)
    try:
        return await echoes(stream)
    finally:
        await stream.aclose()


async def test_pain_05_probes_reach_the_application_and_other_pods_the_tunnel(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, dual_chain) as world:
        probes_as_us(world)
        async with world.agent(), trio.open_nursery() as nursery:
            tunnel = FakeTunnel(world.zds)
            await nursery.start(tunnel.run)
            world.namespace("shop", "ambient")
            world.namespace("elsewhere")
            web, other = await world.start("web"), await world.start("other", "elsewhere")
            echo, echo_v6 = Echo(nursery, web), Echo(nursery, web, socket.AF_INET6)
            await until(lambda: f'{web.ip} comment "{web.uid}"' in probed(world))
            assert await probe(web)
            assert await probe(web, socket.AF_INET6)
            assert echo.peers == [PROBE]
            assert echo_v6.peers == [PROBE_V6]
            assert tunnel.captured == []

            plain = await dial(other, web.ip)
            assert await echoes(plain)
            assert tunnel.captured == [(15006, f"{web.ip}:{APP_PORT}")]
            await plain.aclose()

            # A pod outside the mesh is probed as ever, also when it was inside before.
            assert other.ip not in probed(world)
            world.label(web, "none")
            await until(lambda: web.ip not in probed(world))
            assert await probe(web)
            assert PROBE not in echo.peers[1:]
            nursery.cancel_scope.cancel()


async def test_a_pod_that_takes_the_address_of_probes_reaches_nobody(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop", "ambient")
        world.namespace("elsewhere")
        web, liar = await world.start("web"), await world.start("liar", "elsewhere")
        Echo(nursery, web)
        for sysctl in ("all", "default"):
            run("sysctl", "-qw", f"net.ipv4.conf.{sysctl}.rp_filter=0")
        inside(liar.path, "ip", "addr", "add", f"{PROBE}/32", "dev", "eth0")
        run("ip", "route", "add", f"{PROBE}/32", "via", liar.ip)  # even if answers found it
        client = trio.socket.from_stdlib_socket(liar.netns.run(socket.socket))
        with client:
            await client.bind((PROBE, 0))
            with trio.move_on_after(0.5) as scope:
                await client.connect((web.ip, APP_PORT))
        run("ip", "route", "del", f"{PROBE}/32")
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_pain_46_a_restart_of_the_agent_leaves_no_gap(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        probes_as_us(world)
        world.namespace("shop", "ambient")
        async with world.agent():
            tunnel = FakeTunnel(world.zds)
            await nursery.start(tunnel.run)
            web, gone = await world.start("web"), await world.start("gone")
            echo = Echo(nursery, web)
            await until(lambda: "enabled" == web.annotation == gone.annotation)
            assert await probe(web)
        assert await probe(web), "rules and sets stay while no agent runs"
        before = run("nft", "-a", "list", "ruleset")
        async with world.agent():
            assert await probe(web)
        assert run("nft", "-a", "list", "ruleset").count(web.uid) == 1
        assert handles(before) == handles(run("nft", "-a", "list", "ruleset")), "nothing was redone"

        await world.stop(gone)  # while nobody looks
        async with world.agent():
            await until(lambda: gone.uid not in probed(world))
            assert await probe(web)
        assert set(echo.peers) == {PROBE}
        assert tunnel.captured == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wanted", [True, False])
async def test_pain_07_pods_with_aws_security_groups_of_their_own_are_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr("cni_plugin.io.host_probes.LOOK_S", 0.2)
    async with node(tmp_path) as world:
        probes_as_us(world)
        run("ip", "link", "add", "vpc", "type", "bridge")
        run("ip", "link", "set", "vpc", "up")
        run("sysctl", "-qw", "net.ipv4.tcp_early_demux=0")
        try:
            setting = {"ambient_enable_aws_branch_eni_probe": wanted}
            async with world.agent(**setting), trio.open_nursery() as nursery:
                tunnel = FakeTunnel(world.zds)
                await nursery.start(tunnel.run)
                world.namespace("shop")
                web = await world.start("web")
                echo = Echo(nursery, web)
                device = as_amazons_plugin_makes_it(web)
                before = run("ip", "rule")
                world.namespace("shop", "ambient")
                await until(lambda: web.annotation == "enabled")
                if not wanted:
                    with pytest.raises(trio.TooSlowError):
                        await probe(web)
                    assert run("ip", "rule") == before
                else:
                    await until(lambda: f"to {web.ip} lookup 101 proto 57" in run("ip", "rule"))
                    assert f"9:\tfrom all iif {device} lookup local" in run("ip", "rule")
                    assert await probe(web)
                    assert echo.peers == [PROBE]
                    world.namespace("shop")
                    await until(lambda: run("ip", "rule") == before)
                nursery.cancel_scope.cancel()
        finally:
            run("sysctl", "-qw", "net.ipv4.tcp_early_demux=1")
            run("ip", "link", "del", "vpc")
            run("ip", "rule", "del", "pref", "10", check=False)


def as_amazons_plugin_makes_it(pod: Pod) -> str:
    """All that leaves the pod goes to the VPC, and only table 101 knows where the pod is."""
    (line,) = run("ip", "route", "show", pod.ip).splitlines()
    device = line.split()[line.split().index("dev") + 1]
    for sysctl in ("all", device):
        run("sysctl", "-qw", f"net.ipv4.conf.{sysctl}.rp_filter=0")
    run("ip", "route", "del", pod.ip)
    run("ip", "route", "add", pod.ip, "dev", "vpc")
    run("ip", "route", "add", pod.ip, "dev", device, "scope", "link", "table", "101")
    run("ip", "route", "add", "default", "dev", "vpc", "table", "101")
    run("ip", "rule", "add", "iif", device, "lookup", "101", "pref", "10")
    return device


def handles(ruleset: str) -> list[str]:
    lines = (line for line in ruleset.splitlines() if "handle" in line)
    return [line.rpartition("# handle ")[2] for line in lines]


async def test_pain_46_sets_that_a_reboot_or_a_firewall_emptied_are_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni_plugin.io.host_probes.LOOK_S", 0.2)
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        probes_as_us(world)
        world.namespace("shop", "ambient")
        async with world.agent():
            await nursery.start(FakeTunnel(world.zds).run)
            web = await world.start("web")
            Echo(nursery, web)
            await until(lambda: web.annotation == "enabled")
        run("nft", "flush", "ruleset")
        async with world.agent():
            assert await probe(web)
            run("nft", "flush", "ruleset")
            await until(lambda: web.uid in probed(world))
            assert await probe(web)
        nursery.cancel_scope.cancel()


async def test_the_pod_that_has_an_address_now_keeps_it_when_the_earlier_one_goes(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop", "ambient")
        old, new = await world.start("old"), await world.start("new")
        await until(lambda: "enabled" == old.annotation == new.annotation)
        address = old.ip
        # The address moves before the API server tells that the old pod is gone.
        inside(new.path, "ip", "addr", "add", f"{address}/32", "dev", "eth0")
        new.ip = new.ip6 = address
        world.declare(new)
        await until(lambda: f'{address} comment "{new.uid}"' in probed(world))
        await world.stop(old)
        await tunnel.until(wire.Del(old.uid))  # the last step of leaving
        assert f'{address} comment "{new.uid}"' in probed(world)
        nursery.cancel_scope.cancel()
