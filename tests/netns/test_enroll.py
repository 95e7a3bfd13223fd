"""``ambientctl enroll``: a process that no runtime started joins the mesh and leaves it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from ambient.api.errors import MeshError
from ambient.net.core import wire
from ambientctl import enroll
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import NODE, Pod, World, needs_cni, node, run, until
from tests.netns.test_enrol import Echo, dial, echoes

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]

ENTRIES = "/apis/networking.istio.io/v1/workloadentries"
ACCOUNTS = "/api/v1/serviceaccounts"
GUEST = "guest.shop.billing"


async def bystander(world: World) -> Pod:
    """A namespace with an address, and a process in it; Kubernetes knows nothing of it."""
    guest = Pod(world, "vm", "kube-system", "22222222-2222-3333-4444-555555555555")
    await world.sandbox(guest)
    return guest


def ambientctl(world: World, command: str, *arguments: str) -> str:
    """What the user reads: the output, or the error."""
    where = ["--agent-socket", f"{world.run_dir}/pluginevent.sock"]
    done = CliRunner().invoke(getattr(enroll, command), [*arguments, *where])
    assert done.exception is None or isinstance(done.exception, MeshError), done.exception
    return done.output if done.exception is None else str(done.exception)


async def call(world: World, command: str, *arguments: str) -> str:
    return await trio.to_thread.run_sync(lambda: ambientctl(world, command, *arguments))


def ready(world: World) -> None:
    world.namespace("shop")
    world.api.put(ACCOUNTS, {"metadata": {"name": "billing", "namespace": "shop"}})


def entry(world: World) -> Any:
    return world.api.get(ENTRIES, "shop", "billing")


async def test_a_process_joins_lives_through_a_restart_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni_plugin.io.guests.LOOK_S", 0.1)
    monkeypatch.setattr("cni_plugin.io.enrolment.LEAST_DRAIN_S", 0.2)
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        ready(world)
        tunnel = FakeTunnel(world.zds)
        async with world.agent():
            await nursery.start(tunnel.run)
            vm = await bystander(world)
            Echo(nursery, vm)
            before = await dial(None, vm.ip)
            assert await echoes(before)
            process = await trio.lowlevel.open_process(
                ["nsenter", f"--net={vm.path}", "sleep", "infinity"]
            )
            own = Path(f"/proc/{process.pid}/ns/net")
            await until(lambda: own.stat().st_ino == vm.netns.key[1])
            arguments = ["--pid", str(process.pid), "--identity", "shop/billing"]
            assert "is in the mesh" in await call(world, "enroll", *arguments)
            assert "is in the mesh" in await call(world, "enroll", *arguments), "again is fine"
            assert tunnel.heard[-1] == wire.Add(GUEST, "billing", "shop", "billing")
            assert entry(world)["spec"] == {"address": vm.ip, "serviceAccount": "billing"}
            await until(lambda: "enabled" in json.dumps(entry(world)))
            assert entry(world)["metadata"]["annotations"]["ambient.istio.io/node"] == NODE
            assert await echoes(before)
            inside_mesh = await dial(None, vm.ip)
            assert await echoes(inside_mesh)
            assert len(tunnel.captured) == 1
        async with world.agent():
            await until(lambda: len(tunnel.sessions) > 1 and wire.SnapshotSent() in tunnel.heard)
            assert wire.Add(GUEST, "billing", "shop", "billing") in tunnel.heard
            assert await echoes(inside_mesh)
            told = await call(world, "unenroll", "shop/billing")
            assert "has left the mesh" in told
            direct = await dial(None, vm.ip)
            assert await echoes(direct)
            assert len(tunnel.captured) == 1
            assert await echoes(inside_mesh)
            await inside_mesh.aclose()
            await until(lambda: entry(world) is None)
            assert vm.untouched()
            assert not list((Path(world.run_dir) / "guests").iterdir())
        process.kill()
        await process.wait()
        for stream in (before, direct):
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_guest_whose_namespace_ends_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni_plugin.io.guests.LOOK_S", 0.1)
    monkeypatch.setattr("cni_plugin.io.enrolment.LEAST_DRAIN_S", 0.2)
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        ready(world)
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        vm = await bystander(world)
        told = await call(world, "enroll", "--netns", vm.path, "--identity", "shop/billing")
        assert f"shop/billing at {vm.ip} is in the mesh as shop/billing" in told
        world.pods.remove(vm)
        world.discard(vm)
        await tunnel.until(wire.Del(GUEST))
        await until(lambda: entry(world) is None)
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_enrolled_is_explained_and_nothing_stays(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        identity = ("--identity", "shop/billing")
        assert "no node agent on" in ambientctl(world, "enroll", "--pid", "1", *identity)
        async with world.agent():
            vm = await bystander(world)
            place = ("--netns", vm.path)
            assert "there is no namespace shop" in await call(world, "enroll", *place, *identity)
            world.namespace("shop", "ambient")
            text = await call(world, "enroll", *place, *identity)
            assert "there is no service account shop/billing" in text
            ready(world)
            assert "no ztunnel is connected" in await call(world, "enroll", *place, *identity)
            assert entry(world) is None
            assert vm.untouched()

            await nursery.start(FakeTunnel(world.zds).run)
            own = str(os.getpid())
            assert "the node's own network" in await call(world, "enroll", "--pid", own, *identity)
            world.namespace("shop", "ambient")
            web = await world.start("web")
            text = await call(world, "enroll", "--netns", web.path, *identity)
            assert "belongs to shop/web" in text
            text = await call(world, "enroll", *place, *identity, "--name", "web")
            assert "is the name of a pod" in text
            run("ip", "netns", "add", "bare")
            text = await call(world, "enroll", "--netns", "/run/netns/bare", *identity)
            run("ip", "netns", "del", "bare")
            assert "no address" in text
            world.api.put(
                ENTRIES,
                {
                    "metadata": {"name": "billing", "namespace": "shop"},
                    "spec": {"address": "192.0.2.1", "serviceAccount": "billing"},
                },
            )
            text = await call(world, "enroll", *place, *identity)
            assert "has another address or account" in text
            assert entry(world)["spec"]["address"] == "192.0.2.1"
            text = await call(world, "unenroll", "shop/billing")
            assert "is not enrolled on this node" in text
            assert vm.untouched()
        nursery.cancel_scope.cancel()


def test_a_unit_without_a_process_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeshError, match="no systemctl"):
        enroll.main_process("billing.service")
    for answer, wanted in (("0", "has no main process"), ("", "systemctl answered")):
        systemctl.write_text(f"#!/bin/sh\necho {answer}\n")
        systemctl.chmod(0o755)
        with pytest.raises(MeshError, match=wanted):
            enroll.main_process("billing.service")
    systemctl.write_text("#!/bin/sh\necho 4711\n")
    assert enroll.main_process("billing.service") == 4711
