"""The tunnel's side of the conversation with the node agent, pods being doubles."""

import os

import pytest
import trio

from ambient.net.core.wire import Add, Del, Keep, SnapshotSent
from ambient.net.io.netns import Netns
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io import logs
from tests.fakes.zds_agent import ZdsAgent
from ztunnel.io.pods import Pods, PodStartError
from ztunnel.io.zds import follow_agent


class FakeProxy:
    """A pod that only knows whether it runs."""

    def __init__(self, info, netns, faults):
        self.info, self.netns = info, netns
        self._faults = faults
        self._stopping = trio.Event()
        self.drain_s = None
        self.announced = 0

    def announce(self):
        self.announced += 1

    async def run(self, *, task_status):
        if self._faults:
            raise PodStartError(self._faults.pop())
        task_status.started()
        await self._stopping.wait()

    def stop(self, drain_s):
        self.drain_s = drain_s
        self._stopping.set()


@pytest.fixture
def netns():
    with Netns.current() as here:
        yield here


@pytest.fixture
async def agent(tmp_path):
    served = ZdsAgent(tmp_path / "zds.sock")
    yield served
    served.close()


class Tunnel:
    """Pods and their readiness, with a list of start failures to come."""

    def __init__(self):
        self.faults = []
        self.made = []
        self.readiness = Readiness([])
        self.pods = Pods(self._make, self.readiness, 7.0, retry_s=0.01)

    def _make(self, info, netns):
        self.made.append(FakeProxy(info, netns, self.faults))
        return self.made[-1]

    async def until(self, condition):
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.005)


@pytest.fixture
async def tunnel(agent):
    made = Tunnel()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.pods.run)
        nursery.start_soon(follow_agent, str(agent.path), made.pods)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_pod_is_served_and_the_snapshot_makes_ready(agent, tunnel, netns):
    async with agent.connection() as link:
        assert await link.add(netns, "u1", "web-1") == ""
        assert tunnel.pods.running["u1"].info == Add("u1", "web-1", "shop", "web")
        assert tunnel.readiness.pending == ("workload proxy manager",)
        await link.snapshot()
        assert tunnel.readiness.ready


async def test_a_repeated_add_changes_nothing_and_another_namespace_replaces(agent, tunnel, netns):
    async with agent.connection() as link:
        await link.add(netns, "u1")
        assert await link.add(netns, "u1") == ""
        assert len(tunnel.made) == 1
        other = netns_elsewhere()
        assert await link.add(other, "u1") == ""
        other.close()
        assert len(tunnel.made) == 2
        assert tunnel.made[0].drain_s == 0.0
        assert tunnel.pods.running["u1"] is tunnel.made[1]


def netns_elsewhere():
    """A namespace of another key: made by a child, kept by our descriptor."""
    import subprocess

    child = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo up; read wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    found = Netns.open(f"/proc/{child.pid}/ns/net")
    child.communicate(b"\n")
    return found


async def test_a_deleted_pod_drains(agent, tunnel, netns):
    async with agent.connection() as link:
        await link.add(netns, "u1")
        await link.snapshot()
        assert await link.ask(Del("u1")) == ""
        assert await link.ask(Del("unknown")) == ""
        assert tunnel.made[0].drain_s == 7.0
        assert not tunnel.pods.running


async def test_a_lost_agent_leaves_pods_alone_and_the_next_snapshot_reaps(agent, tunnel, netns):
    async with agent.connection() as link:
        await link.add(netns, "stays")
        for uid in ("kept", "leaves"):
            with netns_elsewhere() as own:
                await link.add(own, uid)
        await link.snapshot()
    await tunnel.until(lambda: not tunnel.readiness.ready)
    assert set(tunnel.pods.running) == {"stays", "kept", "leaves"}
    async with agent.connection() as link:
        await link.add(netns, "stays")
        await link.ask(Keep("kept"))
        assert set(tunnel.pods.running) == {"stays", "kept", "leaves"}
        await link.snapshot()
        assert set(tunnel.pods.running) == {"stays", "kept"}
        assert len(tunnel.made) == 3
        assert tunnel.readiness.ready


async def test_pain_37_a_namespace_that_is_another_pods_is_refused(agent, tunnel, netns):
    async with agent.connection() as link:
        await link.add(netns, "u1", "web")
        refused = await link.add(netns, "u2", "other")
        assert f"namespace {netns.key[1]} of pod shop/other (uid u2)" in refused
        assert "already served as that of shop/web (uid u1)" in refused
        await link.snapshot()
        assert set(tunnel.pods.running) == {"u1"}
        await link.ask(Del("u1"))  # the mistake was the first one
        await tunnel.until(lambda: set(tunnel.pods.running) == {"u2"})


async def test_a_pod_that_fails_is_refused_and_tried_again(agent, tunnel, netns):
    tunnel.faults[:] = ["port 15001 is in use", "port 15001 is in use"]
    async with agent.connection() as link:
        assert await link.add(netns, "u1") == "failure to start proxy: port 15001 is in use"
        await link.snapshot()
        assert not tunnel.readiness.ready
        await tunnel.until(lambda: tunnel.readiness.ready)
        assert set(tunnel.pods.running) == {"u1"}
        assert tunnel.pods.pending == 0


async def test_deleting_a_failed_pod_ends_its_retries(agent, tunnel, netns):
    tunnel.faults[:] = ["no"] * 1000
    async with agent.connection() as link:
        await link.add(netns, "u1")
        await link.snapshot()
        await link.ask(Del("u1"))
        assert tunnel.readiness.ready
        assert tunnel.pods.pending == 0


@pytest.mark.parametrize(
    ("first", "request_", "with_fd", "why"),
    [
        (SnapshotSent(), SnapshotSent(), False, "snapshot_sent twice"),
        (SnapshotSent(), Keep("u"), False, "keep after snapshot_sent"),
        (Del("u"), Add("u", "n", "s", "a"), False, "without a network namespace"),
        (Del("u"), Del("u"), True, "with a descriptor"),
    ],
)
async def test_a_broken_protocol_is_named_and_ends_only_the_session(
    agent, tunnel, netns, first, request_, with_fd, why
):
    async with agent.connection() as link:
        await link.add(netns, "u1")
        assert await link.ask(first) in ("",)
        assert why in await link.ask(request_, netns.fd if with_fd else None)
        assert await link.gone()
    async with agent.connection() as link:
        await link.add(netns, "u1")
        await link.snapshot()
    assert "u1" in tunnel.pods.running or first == SnapshotSent()


async def test_a_descriptor_that_is_no_namespace_is_refused(agent, tunnel):
    read_end, write_end = os.pipe()
    async with agent.connection() as link:
        assert "not a namespace" in await link.ask(Add("u", "n", "s", "a"), read_end)
    os.close(read_end)
    os.close(write_end)


async def test_an_absent_agent_is_logged_once_with_path_and_remedy(
    tmp_path, capsys, autojump_clock
):
    logs.configure()
    tunnel = Tunnel()
    path = str(tmp_path / "absent.sock")
    with trio.move_on_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(tunnel.pods.run)
            nursery.start_soon(follow_agent, path, tunnel.pods)
    lines = [line for line in capsys.readouterr().out.splitlines() if "zds.disconnected" in line]
    assert len(lines) == 1
    assert path in lines[0]
    assert "ambient-cni-agent" in lines[0]


async def test_drain_stops_every_pod_with_its_deadline(agent, netns):
    tunnel = Tunnel()
    async with trio.open_nursery() as nursery:
        await nursery.start(tunnel.pods.run)
        with Netns.current() as mine:
            await tunnel.pods.add(Add("u", "n", "s", "a"), Netns.open(f"/proc/self/fd/{mine.fd}"))
        tunnel.pods.drain()
    assert tunnel.made[0].drain_s == 7.0
    assert not tunnel.readiness.ready
    assert tunnel.pods.stopped == 1
