"""What ``ambientctl create-remote-secret`` prints lets a control plane read that cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
import trio
import yaml

from ambient.api.type_urls import ADDRESS_TYPE
from ambient.kube.core.resources import CONFIG_MAPS, PODS, SECRETS, SERVICES
from tests.kube import servers
from tests.kube.servers import add_node, apply, run_pod
from tests.kube.test_control_plane import ZTUNNEL, control_plane
from tests.unit.istiod_lite.test_app import subscribed

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
GLOBAL = {"istio.io/global": "true"}


async def create_remote_secret(far) -> dict:
    # Controllers write it into every namespace; a real API server alone has none.
    root = {"metadata": {"name": "kube-root-ca.crt", "namespace": "istio-system"}}
    await apply(far.kube, CONFIG_MAPS, {**root, "data": {"ca.crt": far.ca_pem}})
    kubeconfig = far.kubeconfig("admin", far.admin_token)
    command = [AMBIENTCTL, "create-remote-secret", "--name", "far", "--kubeconfig", kubeconfig]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return yaml.safe_load(done.stdout)


async def test_endpoints_of_a_cluster_read_with_the_secret(cluster, tmp_path, monkeypatch):
    far = cluster
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}
    web = {"metadata": {"name": "web", "namespace": "shop", "labels": GLOBAL}, "spec": spec}
    await add_node(far.kube, "f1")
    await apply(far.kube, SERVICES, web)
    await run_pod(
        far.kube, "far-web", "shop", "10.9.0.1", account="web", node="f1", labels={"app": "web"}
    )
    try:
        secret = await create_remote_secret(far)
        folder = tmp_path / "near"
        folder.mkdir()
        async with servers.embedded(folder) as near, near.admin() as kube:
            await near.prepare(kube)
            near.kube = kube
            await add_node(kube, "n1")
            await apply(kube, SERVICES, web)
            tunnel = await run_pod(
                kube, "zt-1", "istio-system", "10.0.0.1", account="ztunnel", node="n1"
            )
            token = await near.token(
                kube, "istio-system", "ztunnel", audience="istio-ca", pod=tunnel
            )
            async with control_plane(near, tmp_path, monkeypatch) as plane:
                async with subscribed(plane, tmp_path, token, ZTUNNEL, [ADDRESS_TYPE]) as (
                    held,
                    changed,
                ):
                    await apply(kube, SECRETS, secret)
                    while "far//Pod/shop/far-web" not in held:
                        await changed.receive()
                page = msgspec.json.decode(await plane._pages.page("clusterz"))
                told = {one["id"]: one["syncStatus"] for one in page}
                assert told == {"Kubernetes": "synced", "far": "synced"}
    finally:
        path = PODS.path("shop", "far-web")
        await far.kube.request("DELETE", path, {"gracePeriodSeconds": 0})
        await far.kube.delete(SERVICES, "web", "shop")
