"""``ambientctl enroll --systemd-unit``: a unit of the node's own network, by its control group.

The group is real and so are the programs; systemd itself is a script that names them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ambient.api.address import HostPort
from ambient.net.core import wire
from ambient.net.io.bpf_flows import FOLDER, DatagramNotes
from ambient.net.io.netns import Netns
from ambientctl.enroll import CGROUPS
from tests.bpf import mount_bpf_fs, unavailable
from tests.fakes.tunnel import FakeTunnel
from tests.netns import backends
from tests.netns.cni_world import World, needs_cni, node, until
from tests.netns.test_enrol import APP_PORT, Echo, dial, echoes
from tests.netns.test_enroll import GUEST, bystander, call, entry, ready


def cgroup_missing() -> str:
    """Why no control group can be made here; empty where one can."""
    top = next((path for path in CGROUPS if os.path.exists(f"{path}/cgroup.controllers")), None)
    if top is None:
        return "no control groups of version 2 are mounted"
    return "" if os.access(top, os.W_OK) else f"{top} is read-only"


MISSING = unavailable() or cgroup_missing()
pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

_PROCESS = """
import json, socket, sys
sockets = []
for line in sys.stdin:
    command, *words = json.loads(line)
    try:
        if command == "open":
            sockets.append(socket.create_connection(words, timeout=5))
            answer = sockets[-1].getpeername()
        elif command == "ask":
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(5)
            sock.sendto(b"query", tuple(words))
            answer = sock.recvfrom(99)[1]
        else:
            sockets[words[0]].sendall(b"there?")
            answer = sockets[words[0]].recv(99).decode()
    except OSError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


class Unit:
    """What systemd would have started: a process in a group of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.path.mkdir()
        script = f'echo $$ > "{self.path}/cgroup.procs"; exec "$0" -c "$1"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, sys.executable, _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        await until(self._removed)

    def _removed(self) -> bool:
        try:
            self.path.rmdir()
        except OSError:  # the process has not quite ended
            return False
        return True

    async def __call__(self, *command: Any) -> Any:
        return await trio.to_thread.run_sync(self._call, command)

    def _call(self, command: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    """It runs, and ``systemctl`` knows it as billing.service."""
    mount_bpf_fs()
    monkeypatch.setattr(backends, "chosen", "nftables")  # what pods have is another matter
    top = next(path for path in CGROUPS if os.path.exists(f"{path}/cgroup.controllers"))
    name = f"ambient-test-{os.getpid()}-{os.urandom(4).hex()}"
    made = Unit(Path(top, name))
    systemctl = tmp_path / "tools" / "systemctl"
    systemctl.parent.mkdir()
    answers = f'*MainPID*) echo {made.process.pid};; *ControlGroup*) echo "/{name}";;'
    systemctl.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    yield made
    made.process.kill()
    made.process.communicate()
    trio.run(until, lambda: not made.path.exists() or made._removed())
    backends.close()


ENROLL = ("enroll", "--systemd-unit", "billing.service", "--identity", "shop/billing")


async def test_what_a_unit_sends_goes_by_the_tunnel_until_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: Unit
) -> None:
    monkeypatch.setattr("cni_plugin.io.guests.DRAIN_LOOK_S", 0.05)
    async with node(tmp_path, deadline_s=90) as world, trio.open_nursery() as nursery:
        ready(world)
        tunnel = FakeTunnel(world.zds)
        async with world.agent(ambient_dns_capture=True):
            await nursery.start(tunnel.run)
            web = await bystander(world)
            Echo(nursery, web)
            Echo(nursery, None)
            far = [web.ip, APP_PORT]
            assert await unit("open", *far) == far
            told = await call(world, *ENROLL)
            assert "shop/billing at 10.244.1.1 is in the mesh" in told
            assert "only what it sends is in the mesh" in told
            assert "is in the mesh" in await call(world, *ENROLL), "again is fine"
            assert await unit("echo", 0) == "there?", "what was open before goes on"
            assert not tunnel.captured

            assert await unit("open", *far) == far, "the application sees whom it asked for"
            assert await unit("echo", 1) == "there?"
            assert tunnel.captured == [(15001, f"{web.ip}:{APP_PORT}")]
            async with await dial(None, web.ip) as other:
                assert await echoes(other)
            assert await unit("open", "10.244.1.1", APP_PORT) == ["10.244.1.1", APP_PORT]
            assert len(tunnel.captured) == 1, "neither others nor the node itself are captured"

            await asks_for_names(unit)
            await no_tunnel_for_outsiders(web.path)
            assert "ambient.istio.io/redirection" not in json.dumps(entry(world))
        async with world.agent(ambient_dns_capture=True):
            await until(lambda: len(tunnel.sessions) > 1 and wire.SnapshotSent() in tunnel.heard)
            assert wire.Add(GUEST, "billing", "shop", "billing") in tunnel.heard
            assert await unit("echo", 1) == "there?"
            assert await unit("open", *far) == far
            assert await unit("echo", 3) == "there?"
            assert len(tunnel.captured) == 2

            assert "has left the mesh" in await call(world, "unenroll", "shop/billing")
            assert await unit("open", *far) == far
            assert await unit("echo", 4) == "there?"
            assert len(tunnel.captured) == 2, "direct"
            assert await unit("echo", 1) == "there?"
            assert entry(world) is not None, "the tunnel still carries its connections"
            await unit.stop()
            await until(lambda: entry(world) is None)
            assert wire.Del(GUEST) in tunnel.heard
            assert os.listdir(f"{FOLDER}/unit") == ["units"]
        nursery.cancel_scope.cancel()


async def asks_for_names(unit: Unit) -> None:
    """A query reaches the tunnel's resolver, which finds out whom it was for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver, Netns.current() as here:
        resolver.bind(("127.0.0.1", 15053))
        resolver.setblocking(False)
        async with trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await unit("ask", "10.96.0.10", 53))

            nursery.start_soon(ask)
            await trio.lowlevel.wait_readable(resolver)
            query, client = resolver.recvfrom(99)
            assert query == b"query"
            notes = DatagramNotes(here)
            # An unbound socket leaves no note; then the tunnel asks the node's own resolvers.
            assert notes.original_destination(HostPort(*client)) in (
                None,
                HostPort("10.96.0.10", 53),
            )
            notes.close()
            resolver.sendto(b"answer", client)
        assert answers == [["10.96.0.10", 53]]


async def no_tunnel_for_outsiders(path: str) -> None:
    """The tunnel's ports in the node's network are the node's own affair."""

    def connect(port: int) -> None:
        with Netns.open(path) as netns:
            sock = netns.run(socket.socket)
        with sock:
            sock.settimeout(5)
            sock.connect(("10.244.1.1", port))

    for port in (15001, 15006):
        with pytest.raises(ConnectionRefusedError):
            await trio.to_thread.run_sync(connect, port)


async def test_a_unit_that_is_started_again_is_captured_again(tmp_path: Path, unit: Unit) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        ready(world)
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        web = await bystander(world)
        Echo(nursery, web)
        await call(world, *ENROLL)
        before = links()
        await unit.stop()
        unit.start()
        await until(lambda: links() and not links() & before)
        assert await unit("open", web.ip, APP_PORT) == [web.ip, APP_PORT]
        assert await unit("echo", 0) == "there?"
        assert len(tunnel.captured) == 1
        nursery.cancel_scope.cancel()


def links() -> set[str]:
    """Which groups the programs are attached to."""
    return {path.name.partition("-")[0] for path in Path(FOLDER, "unit").glob("*-connect4")}


async def test_units_that_cannot_be_enrolled_are_explained(tmp_path: Path, unit: Unit) -> None:
    identity = ("--identity", "shop/billing")
    async with node(tmp_path, deadline_s=90) as world, trio.open_nursery() as nursery:
        ready(world)
        async with world.agent(bpf_dir=str(tmp_path / "none")):
            await bystander(world)
            text = await call(world, *ENROLL)
            assert "a unit of the node's own network needs eBPF" in text
            assert "there is no BPF file system" in text
            assert entry(world) is None
        async with world.agent():
            text = await call(world, *ENROLL)
            assert "no ztunnel is connected" in text
            assert entry(world) is None
            tunnel = FakeTunnel(world.zds)
            await nursery.start(tunnel.run)
            top = str(unit.path.parent)
            text = await call(world, "enroll", "--cgroup", top, *identity)
            assert "no group below the root" in text
            text = await call(world, "enroll", "--cgroup", f"{top}/missing", *identity)
            assert "does not exist" in text
            await refuses_the_meshs_own(world, unit)

            tunnel.refuse = "no room"
            assert "no room" in await call(world, *ENROLL)
            assert not links()
            tunnel.refuse = ""
            place = ("--cgroup", str(unit.path))
            assert "is in the mesh" in await call(world, "enroll", *place, *identity)
            text = await call(world, "enroll", *place, *identity, "--name", "second")
            assert "shop/billing has this node's network already" in text
        nursery.cancel_scope.cancel()


async def refuses_the_meshs_own(world: World, unit: Unit) -> None:
    """The agent in the group, as if somebody had chosen system.slice."""
    home = f"{unit.path.parent}{own_group()}"
    move_to(str(unit.path))
    try:
        text = await call(world, "enroll", "--cgroup", str(unit.path), "--identity", "shop/billing")
    finally:
        move_to(home)
    assert "contains the mesh's own processes" in text


def own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def move_to(group: str) -> None:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
