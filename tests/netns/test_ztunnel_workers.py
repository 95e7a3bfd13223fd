"""Several workers serve one node: each its own pods, and none falls with another."""

import os
import signal
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio

from ambient.api.errors import MeshError
from ambient.net.io.zds_link import Workload
from cni_plugin.io.zds_server import ZdsServer
from tests.fakes.xds_server import FakeControlPlane
from tests.netns import backends
from tests.netns.lan import echo, exchange, read_all
from tests.netns.program import ztunnel
from tests.netns.tunnel import workload
from ztunnel.core.shares import worker_of

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]


class Node:
    """Two pods in each of two shares; connections within a share touch one worker only."""

    def __init__(self, lan, control, agent):
        self.shares = [[], []]
        for name in ("web", "api", "cart", "mail", "shop", "blog", "docs", "chat", "news", "wiki"):
            share = self.shares[worker_of(f"uid-{name}", 2)]
            if len(share) < 2:
                share.append(lan.pod(name))
        self.pods = [pod for share in self.shares for pod in share]
        self.agent = agent
        control.xds.put(*map(workload, self.pods))

    async def enrol(self):
        for pod in self.pods:
            known = Workload(f"uid-{pod.name}", pod.name, "shop", pod.name, pod.netns)
            await self.agent.add(known)
            backends.enrol(pod.netns)

    async def connect(self, share):
        client, server = self.shares[share]
        stream = await client.dial(server.ip, 8080)
        assert await exchange(stream, b"hello") == b"hello"
        return stream

    async def until_served(self, share):
        """New connections work again."""
        with trio.fail_after(30):
            while True:
                with suppress(MeshError, trio.BrokenResourceError):
                    client, server = self.shares[share]
                    stream = await client.dial(server.ip, 8080)
                    if await exchange(stream, b"hello") == b"hello":
                        return stream
                await trio.sleep(0.05)


@asynccontextmanager
async def serving(lan, tmp_path, **more):
    """The node, its program with two workers, and everything enrolled."""
    agent = ZdsServer(str(tmp_path / "zds.sock"))
    with FakeControlPlane(tmp_path) as control:
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.run)
            node = Node(lan, control, agent)
            for pod in node.pods:
                await pod.serve(8080, echo, nursery)
            path = agent._path
            async with ztunnel(tmp_path, control, path, ZTUNNEL_WORKER_THREADS="2", **more) as own:
                with trio.fail_after(30):
                    while not agent.connected:
                        await trio.sleep(0.02)
                await node.enrol()
                await own.until_ready()
                yield node, own
            nursery.cancel_scope.cancel()


async def get(url):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(url, timeout=30)


async def connections():
    return (await get("http://localhost:15000/connections")).json()


async def metric(name):
    lines = (await get("http://localhost:15020/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def until(condition):
    with trio.fail_after(30):
        while not await condition():
            await trio.sleep(0.02)


async def test_two_workers_look_like_one_tunnel(lan, tmp_path):
    async with serving(lan, tmp_path) as (node, program):
        first, second = await node.connect(0), await node.connect(1)
        dump = (await get("http://localhost:15000/config_dump")).json()
        assert {w["name"] for w in dump["workloads"]} == {pod.name for pod in node.pods}
        assert len(dump["workloads"]) == 4, "each of them once"
        assert dump["workloadState"].keys() == {f"uid-{pod.name}" for pod in node.pods}
        assert len(dump["certificates"]) == 4
        by_worker = {one["worker"]: one["pod"] for one in await connections()}
        assert by_worker[0].removeprefix("shop/") in {pod.name for pod in node.shares[0]}
        assert await metric("workload_manager_active_proxy_count") == 4
        assert await metric("istio_tcp_connections_opened_total") == 4, "two on either side"
        assert await metric("ztunnel_workers") == 2
        assert await metric("istio_build") == 1
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.post("http://localhost:15000/logging?level=warn")
        for worker in (0, 1):
            answer = await get(f"http://localhost:15000/logging?worker={worker}")
            assert answer.text == "current log level is warn\n"
        # what one pod's departure leaves
        gone = node.shares[1][0]
        await node.agent.remove(f"uid-{gone.name}")
        await second.aclose()
        await until(lambda: _equals(metric("workload_manager_active_proxy_count"), 3))

        program.process.send_signal(signal.SIGTERM)
        await program.until_logged("drain.started")
        assert await exchange(first, b"drains") == b"drains"
        await first.aclose()
        assert await program.ended() == 0


async def _equals(awaitable, value):
    return await awaitable == value


async def test_a_killed_worker_takes_nobody_with_it_and_comes_back(lan, tmp_path):
    async with serving(lan, tmp_path) as (node, program):
        doomed, safe = await node.connect(0), await node.connect(1)
        os.kill(program.worker_pid(0), signal.SIGKILL)
        assert not await read_all(doomed)
        await doomed.aclose()
        await program.until_logged("worker.ended")
        assert await exchange(safe, b"undisturbed") == b"undisturbed"
        back = await node.until_served(0)
        await program.until_ready()
        assert await metric("ztunnel_worker_restarts_total") == 1
        assert await exchange(safe, b"the same connection") == b"the same connection"
        # a pod that comes now, and one that goes, find the new worker
        pod = node.shares[0][0]
        await node.agent.remove(f"uid-{pod.name}")
        known = Workload(f"uid-{pod.name}", pod.name, "shop", pod.name, pod.netns)
        await node.agent.add(known)
        await (await node.connect(0)).aclose()
        for stream in (back, safe):
            await stream.aclose()
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_workers_end_when_their_supervisor_is_killed(lan, tmp_path):
    async with serving(lan, tmp_path) as (node, program):
        stream = await node.connect(1)
        pids = [program.worker_pid(number) for number in (0, 1)]
        program.process.kill()
        await until(lambda: _equals(_alive(pids[0]), False))
        assert await exchange(stream, b"still relayed") == b"still relayed"
        await stream.aclose()
        await until(lambda: _equals(_alive(pids[1]), False))


async def _alive(pid):
    """Neither gone nor a zombie (nobody in the sandbox collects orphans)."""
    try:
        stat = await trio.Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_probe_is_made_by_the_worker_that_serves_the_pod(lan, tmp_path):
    async with serving(lan, tmp_path) as (node, _):
        for share in node.shares:
            client, server = share
            query = {"pod": f"uid-{client.name}", "to": server.ip}
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.post("http://localhost:15000/probe", params=query, timeout=30)
                lost = await http.post("http://localhost:15000/probe", params={"pod": "lost"})
            assert [one["stage"] for one in answer.json()] == ["done"]
            assert lost.status_code == 404
