"""File mode: the program without a control plane and without a CA."""

import json
import os

import pytest
import trio

from ambient.api.spiffe import Identity
from ambient.net.core import rules
from ambient.net.io import nft
from tests.fakes.certs import TestCa
from tests.fakes.zds_agent import ZdsAgent
from tests.netns.lan import echo, exchange, read_all
from tests.netns.program import Program, start

pytestmark = pytest.mark.netns


def state(*pods, **more):
    """A file with these pods; JSON is YAML, too."""
    workloads = [
        {
            "uid": f"Kubernetes//Pod/shop/{pod.name}",
            "name": pod.name,
            "namespace": "shop",
            "serviceAccount": pod.name,
            "workloadIps": [pod.ip],
            "protocol": "HBONE",
        }
        for pod in pods
    ]
    return json.dumps({"workloads": workloads} | more)


@pytest.fixture
def launch(tmp_path):
    started = []

    def run():
        env = os.environ | {
            "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": str(tmp_path / "mesh.yaml"),
            "MESH_CONFIG": str(tmp_path / "mesh-config"),
            "LOCAL_CERT_DIR": str(tmp_path / "certs"),
            "INPOD_UDS": str(tmp_path / "zds.sock"),
            "LOG_FORMAT": "json",
        }
        output = tmp_path / "ztunnel.log"
        started.append(start(output, env))
        return Program(started[-1], output), output

    yield run
    for process in started:
        process.kill()
        process.wait()


def put_certificates(folder, *pods):
    ca = TestCa()
    for pod in pods:
        issued = ca.issue(Identity("cluster.local", "shop", pod.name))
        own = folder / "shop" / pod.name
        own.mkdir(parents=True)
        (own / "cert-chain.pem").write_bytes(issued.chain)
        (own / "key.pem").write_bytes(issued.key)
        (own / "root-cert.pem").write_bytes(issued.roots)


async def test_two_pods_by_files_alone(lan, tmp_path, launch, nursery):
    web, api = lan.pod("web"), lan.pod("api")
    path = tmp_path / "mesh.yaml"
    path.write_text(state(web, api))
    put_certificates(tmp_path / "certs", web, api)
    agent = ZdsAgent(tmp_path / "zds.sock")
    program, _ = launch()
    await api.serve(8080, echo, nursery)
    async with agent.connection() as link:
        for pod in (web, api):
            assert await link.add(pod.netns, f"uid-{pod.name}", pod.name, "shop", pod.name) == ""
            nft.apply(pod.netns, rules.enrolled(rules.Options()))
        await link.snapshot()
        await program.until_ready()
        async with await web.dial(api.ip, 8080) as stream:
            assert await exchange(stream, b"by files") == b"by files"
            deny = {"name": "d", "namespace": "shop", "scope": "Namespace", "action": "Deny"}
            match = {"principals": [{"Suffix": "/sa/web"}]}
            path.write_text(state(web, api, policies=[deny | {"rules": [[[match]]]}]))
            assert not await read_all(stream)  # cut as soon as the file is read
    agent.close()
    lines = await program.until_access_logged("inbound", "outbound")
    assert {line.get("src.identity") for line in lines} == {"spiffe://cluster.local/ns/shop/sa/web"}


async def test_registry_only_holds_as_soon_as_the_mesh_configuration_says_so(
    lan, tmp_path, launch, nursery
):
    web, elsewhere = lan.pod("web"), lan.pod("elsewhere")
    (tmp_path / "mesh.yaml").write_text(state(web))
    put_certificates(tmp_path / "certs", web)
    agent = ZdsAgent(tmp_path / "zds.sock")
    program, _ = launch()
    await elsewhere.serve(8080, echo, nursery)
    async with agent.connection() as link:
        assert await link.add(web.netns, "uid-web", "web", "shop", "web") == ""
        nft.apply(web.netns, rules.enrolled(rules.Options()))
        await link.snapshot()
        await program.until_ready()
        old = await web.dial(elsewhere.ip, 8080)
        assert await exchange(old, b"anywhere") == b"anywhere"
        policy = tmp_path / "mesh-config"
        policy.write_text("outboundTrafficPolicy: {mode: REGISTRY_ONLY}")
        await program.until_logged("outbound_policy.changed")
        async with await web.dial(elsewhere.ip, 8080) as stream:
            assert not await read_all(stream)
        assert await exchange(old, b"as before") == b"as before"
        await old.aclose()
        policy.write_text("outboundTrafficPolicy: {mode: NOBODY}")
        await program.until_logged("mesh_config.refused")
        async with await web.dial(elsewhere.ip, 8080) as stream:
            assert not await read_all(stream)
    agent.close()
    with trio.fail_after(30):
        while not any("ServiceEntry" in json.dumps(line) for line in program.access_log()):
            await trio.sleep(0.02)


async def test_a_file_that_cannot_be_used_ends_the_program_with_one_line(tmp_path, launch):
    (tmp_path / "mesh.yaml").write_text("workloads: [{uid: x, name: web, namespace: shop, ip: 1}]")
    program, output = launch()
    assert await program.ended() == 1
    text = output.read_text()
    assert f"error: LOCAL_XDS_PATH {tmp_path}/mesh.yaml: workload 1 shop/web: ip: " in text
    assert "Traceback" not in text
