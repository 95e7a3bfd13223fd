"""Where the API server reaches no kubelet, ``why --probe`` keeps its answer and says so."""

import sys

import trio

from ambient.kube.core.resources import NAMESPACES
from tests.kube import servers

MESH = {"istio.io/dataplane-mode": "ambient"}
IN_MESH = {"annotations": {"ambient.istio.io/redirection": "enabled"}}
TUNNEL = {"labels": {"app": "ztunnel"}}


async def test_no_connection_can_be_made_from_a_pod(cluster):
    kube = cluster.kube
    await servers.add_node(kube, "node-1")
    await servers.apply(kube, NAMESPACES, {"metadata": {"name": "probed", "labels": MESH}})
    for name, where, ip, more in (
        ("ztunnel-1", "istio-system", "10.0.0.2", TUNNEL),
        ("web", "probed", "10.0.0.3", IN_MESH),
        ("api", "probed", "10.0.0.4", IN_MESH),
    ):
        await servers.run_pod(kube, name, where, ip, account="default", node="node-1", **more)
    config = cluster.kubeconfig("ctl", cluster.admin_token)
    words = ["why", "probed/web", "10.0.0.4:80", "--probe", "-c", config]
    done = await trio.run_process(
        [sys.executable, "-m", "ambientctl", *words],
        capture_stdout=True, capture_stderr=True, check=False,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 1
    assert b"allowed" in done.stdout
    assert said.startswith("error: the tunnel ztunnel-1 makes no connection for probed/web: "), said
    assert "hint: " in said
    if "no preferred addresses" in said:  # the real server; ours has no kubelets
        assert "does the API server reach the kubelet of node-1?" in said
