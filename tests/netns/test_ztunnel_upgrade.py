"""A tunnel is replaced while its pods are busy: nobody outside it notices."""

import signal
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address

import pytest
import trio

from ambient.api.address import NetworkAddress
from ambient.api.errors import MeshError
from ambient.api.service import Port, Service
from ambient.api.workload import NamespacedHostname
from ambient.net.io.zds_link import Workload
from cni_plugin.io.zds_server import ZdsServer
from tests.fakes.xds_server import FakeControlPlane
from tests.netns import backends
from tests.netns.lan import echo, exchange
from tests.netns.program import ztunnel
from tests.netns.tunnel import Tunnel, running, workload

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]

VIP = "10.96.0.7"
HOSTNAME = "api.shop.svc.cluster.local"
DRAIN = {"CONNECTION_TERMINATION_DEADLINE": "60s"}


class Node:
    """One node: the agent's side of ZDS, a control plane, and the pods web, api and outsider."""

    def __init__(self, lan, tmp_path, control, agent):
        self.web, self.api, self.outsider = lan.pod("web"), lan.pod("api"), lan.pod("outsider")
        self.agent = agent
        self._tmp_path, self._control = tmp_path, control
        key = NamespacedHostname("shop", HOSTNAME)
        vip = NetworkAddress("", ip_address(VIP))
        service = Service(
            name="api",
            namespace="shop",
            hostname=HOSTNAME,
            addresses=(vip,),
            ports=(Port(80, 8080),),
        )
        member = workload(self.api, services={key: (Port(80, 8080),)})
        control.xds.put(workload(self.web), member, service)

    def tunnel(self, **more):
        """One more process of the tunnel, not yet ready."""
        return ztunnel(self._tmp_path, self._control, self.agent._path, **DRAIN, **more)

    async def enrol(self):
        for pod in (self.web, self.api):
            known = Workload(f"uid-{pod.name}", pod.name, "shop", pod.name, pod.netns)
            await self.agent.add(known)
            backends.enrol(pod.netns)

    async def until_connected(self, count):
        with trio.fail_after(30):
            while self.agent.connected < count:
                await trio.sleep(0.02)


@pytest.fixture
async def node(lan, tmp_path):
    agent = ZdsServer(str(tmp_path / "zds.sock"))
    with FakeControlPlane(tmp_path) as control:
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.run)
            made = Node(lan, tmp_path, control, agent)
            for pod in (made.web, made.api):
                await pod.serve(8080, echo, nursery)
            yield made
            nursery.cancel_scope.cancel()


class Load:
    """Connections that come and go, and some that stay; every failure is kept."""

    def __init__(self, node):
        web, api = node.web, node.api
        self.ways = [
            (web, VIP, 80),  # a service
            (web, api.ip, 8080),  # a pod
            (api, web.ip, 8080),  # the other direction
            (node.outsider, api.ip, 8080),  # from outside the mesh
        ]
        self.done = 0
        self.failures = []

    async def come_and_go(self, pod, host, port):
        while True:
            try:
                async with await pod.dial(host, port) as stream:
                    if await exchange(stream, b"short") != b"short":
                        self.failures.append(f"{pod.name} to {host}: ended early")
                    self.done += 1
            except (MeshError, trio.BrokenResourceError) as error:
                self.failures.append(f"{pod.name} to {host}: {error!r} {error.__cause__!r}")
                await trio.sleep(0.05)

    @asynccontextmanager
    async def running(self, workers):
        async with trio.open_nursery() as nursery:
            for way in self.ways:
                for _ in range(workers):
                    nursery.start_soon(self.come_and_go, *way)
            yield
            nursery.cancel_scope.cancel()

    async def more(self, count):
        """Wait for so many more connections."""
        wanted = self.done + count
        with trio.fail_after(60):
            while self.done < wanted:
                await trio.sleep(0.01)

    async def stay(self):
        """One connection on every way."""
        streams = [await pod.dial(host, port) for pod, host, port in self.ways]
        await still_work(streams)
        return streams


async def still_work(streams):
    for stream in streams:
        assert await exchange(stream, b"long") == b"long"


async def replace(node, stack, load, old):
    """As a rolling update does: a successor beside the old one, ready, then the old one's end."""
    before = await load.stay()
    new = await stack.enter_async_context(node.tunnel())
    await node.until_connected(2)
    await new.until_ready()
    await load.more(50)
    # The successor's tunnels may still end at the predecessor; those have to live on as well.
    beside = await load.stay()
    old.process.send_signal(signal.SIGTERM)
    await old.until_logged("drain.started")
    await load.more(100)
    after = await load.stay()
    await still_work(before + beside + after)
    assert old.process.poll() is None, "it relays what is established"
    await close(before + beside)
    assert await old.ended() == 0
    await load.more(50)
    await still_work(after)
    await close(after)
    return new


async def close(streams):
    for stream in streams:
        await stream.aclose()


async def test_pain_12_upgrades_under_load_fail_and_reset_nothing(node):
    load = Load(node)
    async with AsyncExitStack() as stack:
        tunnel = await stack.enter_async_context(node.tunnel())
        await node.until_connected(1)
        await node.enrol()
        await tunnel.until_ready()
        async with load.running(workers=2):
            await load.more(50)
            for _ in range(2):
                tunnel = await replace(node, stack, load, tunnel)
        assert load.failures == []
        # nobody but the two ends of a connection knows why it ended; the tunnels' logs agree
        assert not [line for line in tunnel.access_log() if "error" in line]


async def test_a_handshake_under_way_is_not_reset(node):
    """The client's last packet of the handshake comes when the tunnel is already ending."""
    lose_answers = "add table inet t; add chain inet t in { type filter hook input priority 0; }"
    lose_answers += "; add rule inet t in tcp flags & (syn | ack) == syn | ack counter drop"
    async with node.tunnel() as tunnel:
        await node.until_connected(1)
        await node.enrol()
        node.outsider.run("nft", lose_answers)
        async with trio.open_nursery() as clients:
            answers = []

            async def client():
                async with await node.outsider.dial(node.api.ip, 8080) as stream:
                    answers.append(await exchange(stream, b"in time"))

            clients.start_soon(client)
            with trio.fail_after(30):
                while "counter packets 0" in node.outsider.run("nft", "list", "ruleset"):
                    await trio.sleep(0.01)
            tunnel.process.send_signal(signal.SIGTERM)
            await tunnel.until_logged("drain.started")
            node.outsider.run("nft", "delete table inet t")
        assert answers == [b"in time"]
        assert await tunnel.ended() == 0


async def test_after_goaway_a_peers_new_streams_reach_the_successor(lan):
    """The peer, on another node, has a tunnel to the old one and streams in it."""
    web, api = lan.pod("web"), lan.pod("api")
    peer = Tunnel()
    old, successor = Tunnel(peer.ca, connection_termination_deadline_s=30.0), Tunnel(peer.ca)
    async with running(peer, old, successor) as nursery:
        await api.serve(8080, echo, nursery)
        peer.know(workload(api))
        await peer.enrol(web)
        for tunnel in (old, successor):
            tunnel.know(workload(web))
        await old.enrol(api)
        streams = [await web.dial(api.ip, 8080)]
        await still_work(streams)
        successor.know(workload(api))
        await successor.serve(api)
        streams.append(await web.dial(api.ip, 8080))
        await still_work(streams)
        assert len(old.node.connections.live) == 2, "one tunnel, so both are with the old one"
        old.pods.drain()
        with trio.fail_after(30):
            while not successor.node.connections.live:
                streams.append(await web.dial(api.ip, 8080))
                await still_work(streams)
        await close(streams)
        await old.pods.finished()
