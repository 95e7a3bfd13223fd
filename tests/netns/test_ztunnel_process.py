"""The program itself: started as a process, told by a control plane and a node agent."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
import trio

from ambient.net.core.wire import Del
from tests.fakes.xds_server import FakeControlPlane
from tests.fakes.zds_agent import ZdsAgent
from tests.netns import backends
from tests.netns.lan import echo, exchange, read_all
from tests.netns.program import ztunnel
from tests.netns.tunnel import workload

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]

SPIFFE = "spiffe://cluster.local/ns/shop/sa/"


@pytest.fixture
def control(tmp_path):
    with FakeControlPlane(tmp_path) as served:
        yield served


@pytest.fixture
async def agent(tmp_path):
    served = ZdsAgent(tmp_path / "zds.sock")
    yield served
    served.close()


async def join(link, control, *pods):
    control.xds.put(*map(workload, pods))
    for pod in pods:
        assert await link.add(pod.netns, f"uid-{pod.name}", pod.name, "shop", pod.name) == ""
        backends.enrol(pod.netns)


async def get(url):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(url, timeout=30)


async def test_the_life_of_a_node(lan, tmp_path, control, agent):
    web, api = lan.pod("web"), lan.pod("api")
    async with ztunnel(tmp_path, control, agent.path) as program, trio.open_nursery() as servers:
        await api.serve(8080, echo, servers)
        async with agent.connection() as link:
            await program.until_answer(lambda a: "workload proxy manager" in a)
            await join(link, control, web, api)
            await link.snapshot()
            await program.until_ready()
            async with await web.dial(api.ip, 8080) as stream:
                assert await exchange(stream, b"through the program") == b"through the program"

                # what istioctl and a person would look at
                dump = (await get("http://localhost:15000/config_dump")).json()
                assert {w["name"]: w["protocol"] for w in dump["workloads"]} == {
                    "web": "HBONE",
                    "api": "HBONE",
                }
                states = {c["identity"]: c["state"] for c in dump["certificates"]}
                assert states == {SPIFFE + "web": "Available", SPIFFE + "api": "Available"}
                (outbound,) = dump["workloadState"]["uid-web"]["connections"]["outbound"]
                assert outbound["actualDst"] == f"{api.ip}:15008"
                live = (await get("http://localhost:15000/connections")).json()
                assert {one["direction"] for one in live} == {"inbound", "outbound"}
                metrics = (await get("http://localhost:15020/stats/prometheus")).text
                assert "workload_manager_active_proxy_count 2.0" in metrics
                counted = [m for m in metrics.splitlines() if "received_bytes_total{" in m]
                assert sorted(line.rpartition(" ")[2] for line in counted) == ["19.0", "19.0"]

        # the agent has gone: not ready, and nothing else happens
        async with await web.dial(api.ip, 8080) as stream:
            await program.until_answer(lambda a: "workload proxy manager" in a)
            assert await exchange(stream, b"without an agent") == b"without an agent"
            async with agent.connection() as link:
                await join(link, control, web, api)
                await link.snapshot()
                await program.until_ready()
                assert await exchange(stream, b"same connection") == b"same connection"

                # a pod leaves: its certificate goes with it
                assert await link.ask(Del("uid-web")) == ""
                await stream.aclose()
                with trio.fail_after(30):
                    while len(await dump_of_certificates()) > 1:
                        await trio.sleep(0.02)
        logged = await program.until_access_logged("inbound", "outbound")
        identities = {line.get("src.identity") for line in logged}
        assert SPIFFE + "web" in identities
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0
        servers.cancel_scope.cancel()


async def dump_of_certificates():
    return (await get("http://localhost:15000/config_dump")).json()["certificates"]


async def test_sigterm_lets_connections_finish_and_an_heir_takes_new_ones(
    lan, tmp_path, control, agent
):
    web, api = lan.pod("web"), lan.pod("api")
    more = {"CONNECTION_TERMINATION_DEADLINE": "30s"}
    heirs_ports = {"ADMIN_PORT": "25000", "STATS_PORT": "25020", "READINESS_PORT": "25021"}
    async with (
        ztunnel(tmp_path, control, agent.path, **more) as old,
        ztunnel(tmp_path, control, agent.path, **more, **heirs_ports),
        trio.open_nursery() as servers,
    ):
        await api.serve(8080, echo, servers)
        async with agent.connection() as first, agent.connection() as second:
            for link in (first, second):
                await join(link, control, web, api)
                await link.snapshot()
            streams = [await web.dial(api.ip, 8080) for _ in range(8)]
            for stream in streams:
                await exchange(stream, b"before")
            old.process.send_signal(signal.SIGTERM)
            with trio.fail_after(30):
                while "drain.started" not in old.events():
                    await trio.sleep(0.02)
            for stream in streams:
                assert await exchange(stream, b"after") == b"after"
            for _ in range(8):
                async with await web.dial(api.ip, 8080) as stream:
                    assert await exchange(stream, b"new") == b"new"
            for stream in streams:
                await stream.aclose()
            assert await old.ended() == 0
        servers.cancel_scope.cancel()


async def test_the_deadline_ends_what_does_not_finish(lan, tmp_path, control, agent):
    web, api = lan.pod("web"), lan.pod("api")
    more = {"CONNECTION_TERMINATION_DEADLINE": "200ms"}
    async with (
        ztunnel(tmp_path, control, agent.path, **more) as program,
        trio.open_nursery() as servers,
    ):
        await api.serve(8080, echo, servers)
        async with agent.connection() as link:
            await join(link, control, web, api)
            await link.snapshot()
            async with await web.dial(api.ip, 8080) as stream:
                await exchange(stream, b"x")
                program.process.send_signal(signal.SIGTERM)
                assert not await read_all(stream)
            assert await program.ended() == 0
        errors = {line.get("error") for line in program.access_log()} - {None}
        assert "connection closed due to connection drain" in errors
        servers.cancel_scope.cancel()


def outcome(*arguments, **env):
    """Exit code, output and errors of a start that should not last."""
    done = subprocess.run(
        [sys.executable, "-m", "ztunnel", *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_what_a_person_gets_for_bad_input(tmp_path):
    assert outcome("help")[0] == 0
    assert outcome("frobnicate")[0] == 2
    assert outcome("version")[1].strip()
    code, _, errors = outcome("proxy", SECRET_TTL="soon")
    assert code == 2
    assert "SECRET_TTL='soon'" in errors
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT of earlier tests
        taken.bind(("::", 15021))
        taken.listen()
        code, _, errors = outcome("proxy", XDS_ADDRESS="")
    assert code == 1
    assert "cannot listen on port 15021" in errors
    assert "Traceback" not in errors
