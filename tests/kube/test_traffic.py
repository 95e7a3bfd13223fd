"""Tunnel and waypoint as programs under our control plane, at either API server: bytes flow."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest
import trio

from ambient.kube.core.resources import (
    AUTHORIZATION_POLICIES,
    GATEWAY_CLASSES,
    GATEWAYS,
    PODS,
    SERVICES,
)
from tests.fakes.zds_agent import ZdsAgent
from tests.kube import test_control_plane
from tests.kube.servers import add_node, apply, run_pod
from tests.kube.test_control_plane import SETTINGS, control_plane, found, until
from tests.netns import backends, program
from tests.netns.conftest import lan
from tests.netns.lan import echo, exchange

__all__ = ["lan"]  # a fixture

pytestmark = [
    pytest.mark.netns,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
BRIDGE_IP = "10.77.0.1"
SPIFFE = "spiffe://cluster.local/ns/shop/sa/"
ENROLLED = {"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}
OURS = ("client", "server", "wp-1", "zt-1")


class Mesh:
    """Pods that exist twice: as objects at the API server and as network namespaces."""

    def __init__(self, cluster, plane, folder, lan):
        self.cluster, self.plane, self.folder, self.lan = cluster, plane, folder, lan

    async def pod(self, name, *, namespace="shop", account=None, labels=None, ip=None):
        """The object; its token lies in a file."""
        kube, account = self.cluster.kube, account or name
        made = await run_pod(
            kube, name, namespace, ip or self.lan.pods[name].ip,
            account=account, node="n1", labels=labels,
        )  # fmt: skip
        token = await self.cluster.token(kube, namespace, account, audience="istio-ca", pod=made)
        path = self.folder / f"token-{name}"
        path.write_text(token)
        return path

    def environment(self, token, **more):
        """How a program reaches the control plane."""
        port = self.plane.ports["xds_port"]
        return {
            "XDS_ADDRESS": f"https://{BRIDGE_IP}:{port}",
            "CA_ADDRESS": f"https://{BRIDGE_IP}:{port}",
            "XDS_ROOT_CA": str(self.folder / "root.pem"),
            "CA_ROOT_CA": str(self.folder / "root.pem"),
            "ALT_XDS_HOSTNAME": "localhost",
            "ALT_CA_HOSTNAME": "localhost",
            "AUTH_TOKEN": str(token),
            "NODE_NAME": "n1",
            "LOG_FORMAT": "json",
            **more,
        }

    @asynccontextmanager
    async def ztunnel(self):
        """The node's tunnel, which serves client and server."""
        token = await self.pod("zt-1", namespace="istio-system", account="ztunnel", ip="10.77.0.1")
        agent = ZdsAgent(self.folder / "zds.sock")
        env = self.environment(
            token, INPOD_UDS=agent.path, POD_NAME="zt-1", POD_NAMESPACE="istio-system"
        )
        output = self.folder / "ztunnel.log"
        process = program.start(output, os.environ | {k: str(v) for k, v in env.items()})
        running = program.Program(process, output)
        try:
            async with agent.connection() as link:
                for name in ("client", "server"):
                    pod = self.lan.pods[name]
                    uid = (await self.cluster.kube.get(PODS, name, "shop"))["metadata"]["uid"]
                    assert await link.add(pod.netns, uid, name, "shop", name) == ""
                    backends.enrol(pod.netns)
                await link.snapshot()
                await running.until_ready()
                yield running
        finally:
            process.kill()
            process.wait()
            agent.close()

    @contextmanager
    def waypoint(self, token):
        """The waypoint's pod."""
        pod = self.lan.pods["wp-1"]
        env = self.environment(
            token, POD_NAME="wp-1", POD_NAMESPACE="shop", INSTANCE_IP=pod.ip,
            SERVICE_ACCOUNT="wp", GATEWAY_NAME="wp",
        )  # fmt: skip
        log = self.folder / "waypoint.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", "wp-1", sys.executable, "-m", "waypoint"],
                stdout=out, stderr=out, env=os.environ | env,
            )  # fmt: skip
        try:
            yield log
        finally:
            process.kill()
            process.wait()

    async def annotate(self, *names):
        """What the node agent does once a pod is captured."""
        for name in names:
            await self.cluster.kube.patch(
                PODS, name, ENROLLED, namespace="shop", subresource="status"
            )


@pytest.fixture
async def mesh(cluster, tmp_path, monkeypatch, lan):
    """Client and server in the mesh, behind a service."""
    monkeypatch.setattr(
        test_control_plane, "SETTINGS", msgspec.structs.replace(SETTINGS, bind_address="0.0.0.0")
    )
    kube = cluster.kube
    await add_node(kube, "n1")
    async with control_plane(cluster, tmp_path, monkeypatch) as plane:
        made = Mesh(cluster, plane, tmp_path, lan)
        for name in ("client", "server"):
            lan.pod(name)
            await made.pod(name, labels={"app": name})
        spec = {
            "selector": {"app": "server"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        }
        await apply(
            kube, SERVICES, {"metadata": {"name": "server", "namespace": "shop"}, "spec": spec}
        )
        await made.annotate("client", "server")
        yield made
    for name in OURS:
        namespace = "istio-system" if name == "zt-1" else "shop"
        if await found(kube, PODS, name, namespace):
            path = PODS.path(namespace, name)
            await kube.request("DELETE", path, {"gracePeriodSeconds": 0})
    for res, name in (
        (AUTHORIZATION_POLICIES, "no-delete"),
        (GATEWAYS, "wp"),
        (SERVICES, "server"),
    ):
        if await found(kube, res, name, "shop"):
            await kube.delete(res, name, "shop")


async def until_answer(call, expected):
    """What is configured arrives when it does."""
    answer = None
    with trio.move_on_after(30):
        while (answer := await call()) != expected:
            await trio.sleep(0.1)
    assert answer == expected


async def test_a_connection_of_two_pods_carries_both_identities(mesh):
    client, server = mesh.lan.pods["client"], mesh.lan.pods["server"]
    async with mesh.ztunnel() as tunnel, trio.open_nursery() as servers:
        await server.serve(8080, echo, servers)
        async with await client.dial(server.ip, 8080) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        with trio.fail_after(30):
            while len(ended := [one for one in tunnel.access_log() if "bytes_sent" in one]) < 2:
                await trio.sleep(0.05)
        assert {one["src.identity"] for one in ended} == {SPIFFE + "client"}
        assert {one["dst.identity"] for one in ended} == {SPIFFE + "server"}
        servers.cancel_scope.cancel()


async def test_a_waypoint_of_a_gateway_judges_requests(mesh):
    kube, client = mesh.cluster.kube, mesh.lan.pods["client"]
    await apply(kube, GATEWAY_CLASSES, {
        "metadata": {"name": "istio-waypoint"},
        "spec": {"controllerName": "istio.io/mesh-controller"},
    })  # fmt: skip
    await apply(kube, GATEWAYS, {
        "metadata": {"name": "wp", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    })  # fmt: skip
    await until(found, kube, SERVICES, "wp", "shop")
    mesh.lan.pod("wp-1")
    labels = {
        "gateway.networking.k8s.io/gateway-name": "wp",
        "gateway.istio.io/managed": "istio.io-mesh-controller",
    }
    token = await mesh.pod("wp-1", account="wp", labels=labels)
    bound = {"metadata": {"labels": {"istio.io/use-waypoint": "wp"}}}
    await kube.patch(SERVICES, "server", bound, namespace="shop")
    await apply(kube, AUTHORIZATION_POLICIES, {
        "metadata": {"name": "no-delete", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": "server"}],
            "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["DELETE"]}}]}],
        },
    })  # fmt: skip
    address = (await kube.get(SERVICES, "server", "shop"))["spec"]["clusterIP"]

    async def status(method):
        ask = ["curl", "-s", "-o", "/dev/null", "--max-time", "5", "-w", "%{http_code}"]
        command = ["ip", "netns", "exec", client.name, *ask, "-X", method, f"http://{address}/"]
        done = await trio.run_process(command, capture_stdout=True, check=False)
        return done.stdout.decode()

    async with mesh.ztunnel(), trio.open_nursery() as servers:
        with mesh.waypoint(token) as log:
            await mesh.lan.pods["server"].serve(8080, answer, servers)
            await until_answer(lambda: status("GET"), "200")
            await until_answer(lambda: status("DELETE"), "403")
            assert await status("GET") == "200"
            text = log.read_text()
            assert SPIFFE + "client" in text
        servers.cancel_scope.cancel()


async def answer(stream, peer):
    """The application: one request, one answer."""
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
