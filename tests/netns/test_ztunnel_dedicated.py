"""A tunnel of its own for one workload, and the node's tunnel as a pod in the mesh."""

import os
import subprocess
import sys

import pytest

from ambient.api.ports import PROXY_MARK
from ambient.net.core import rules
from ambient.net.io import nft
from tests.fakes.zds_agent import ZdsAgent
from tests.netns.lan import echo, exchange
from tests.netns.program import Program
from tests.netns.test_ztunnel_files import put_certificates, state

pytestmark = pytest.mark.netns


@pytest.fixture
def launch(tmp_path):
    """Starts the program inside a pod; ends it with the test."""
    started = []

    def run(pod, **env):
        output = tmp_path / f"ztunnel-{pod.name}-{len(started)}.log"
        command = ["ip", "netns", "exec", pod.name, sys.executable, "-m", "ztunnel", "proxy"]
        files = {
            "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": str(tmp_path / "mesh.yaml"),
            "LOCAL_CERT_DIR": str(tmp_path / "certs"),
            "LOG_FORMAT": "json",
        }
        with output.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | files | env
            )
        started.append(process)
        return Program(process, output)

    yield run
    for process in started:
        process.kill()
        process.wait()


async def test_two_dedicated_tunnels_without_a_node_agent(lan, tmp_path, launch, nursery):
    web, api = lan.pod("web"), lan.pod("api")
    (tmp_path / "mesh.yaml").write_text(state(web, api))
    put_certificates(tmp_path / "certs", web, api)
    programs = [
        launch(
            pod,
            PROXY_MODE="dedicated",
            PROXY_WORKLOAD_INFO=f"shop/{pod.name}/{pod.name}",
            PACKET_MARK=str(PROXY_MARK),  # the rules of this test tell the tunnel by its mark
        )
        for pod in (web, api)
    ]
    await api.serve(8080, echo, nursery)
    for pod, program in zip((web, api), programs, strict=True):
        await program.until_logged("pod.joined")
        nft.apply(pod.netns, rules.enrolled(rules.Options()))
    async with await web.dial(api.ip, 8080) as stream:
        assert await exchange(stream, b"dedicated") == b"dedicated"
    for program, direction in zip(programs, ("outbound", "inbound"), strict=True):
        (line,) = await program.until_access_logged(direction)
        assert line["direction"] == direction
        assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"


async def test_a_dedicated_tunnel_that_cannot_listen_ends_with_one_line(lan, tmp_path, launch):
    web = lan.pod("web")
    (tmp_path / "mesh.yaml").write_text(state(web))
    put_certificates(tmp_path / "certs", web)
    options = {"PROXY_MODE": "dedicated", "INPOD_PORT_REUSE": "false"}
    options |= {"READINESS_PORT": "0", "STATS_PORT": "0", "ADMIN_PORT": "0"}
    first = launch(web, PROXY_WORKLOAD_INFO="shop/web/web", **options)
    await first.until_logged("pod.joined")
    second = launch(web, PROXY_WORKLOAD_INFO="shop/web/web", **options)
    assert await second.ended() == 1


async def test_the_tunnels_own_metrics_are_scraped_over_mutual_tls(lan, tmp_path, launch, nursery):
    """Upstream's ``test_hbone_metrics_access``."""
    web, node = lan.pod("web"), lan.pod("node")
    (tmp_path / "mesh.yaml").write_text(state(web, node))
    put_certificates(tmp_path / "certs", web, node)
    agent = ZdsAgent(tmp_path / "zds.sock")
    own = {"POD_NAME": "node", "POD_NAMESPACE": "shop", "SERVICE_ACCOUNT": "node"}
    program = launch(node, INPOD_UDS=str(agent.path), **own)
    async with agent.connection() as link:
        assert await link.add(web.netns, "uid-web", "web", "shop", "web") == ""
        await link.snapshot()
        nft.apply(web.netns, rules.enrolled(rules.Options()))
        async with await web.dial(node.ip, 15020) as stream:
            await stream.send_all(
                b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
            )
            answer = b"".join([part async for part in stream])
    agent.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"istio_build" in answer
    logged = await program.until_access_logged("inbound", "outbound")
    lines = {line["direction"]: line for line in logged}
    assert lines["inbound"]["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/node"
    assert lines["inbound"]["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
