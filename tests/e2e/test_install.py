"""The manifests of a cluster, installed by ``ambientctl install`` into one without a mesh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_local import AMBIENTCTL, DEADLINE_S, Host

SYSTEM = ("-n", "istio-system")
# No image: the plugin runs with the interpreter of this installation.
VALUES = ("--profile", "minimal", "--set", "cni.env.CNI_PLUGIN_RUNTIME=")
KEPT = {"customresourcedefinitions", "namespaces", "secrets"}
EVERYTHING = (
    "namespaces,secrets,configmaps,services,serviceaccounts,deployments,daemonsets,replicasets,pods,"
    "clusterroles,clusterrolebindings,roles,rolebindings,leases,poddisruptionbudgets,"
    "horizontalpodautoscalers,networkpolicies,validatingwebhookconfigurations"
)


class Cluster(Host):
    def ctl(self, *words: str, status: int = 0) -> str:
        done = self.run(AMBIENTCTL, *words)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def objects(self) -> set[tuple[str, str, str]]:
        found = json.loads(self.kubectl("get", EVERYTHING, "-A", "-o", "json"))["items"]
        return {
            (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"])
            for one in found
        }

    def call(self) -> str:
        words = ["curl", "-fsS", "-m", "10", "http://details:9080/details/0"]
        return self.kubectl("exec", "-n", "bookinfo", "deploy/client", "--", *words)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.local("up", "--bare", "--nodes", "2")
    made.environment["KUBECONFIG"] = str(tmp_path / "ambient-mesh" / "default" / "kubeconfig")
    try:
        yield made
    finally:
        made.run(AMBIENTCTL, "local", "down")


def test_install_use_upgrade_and_remove(cluster: Cluster) -> None:
    before = cluster.objects()
    assert "there is no mesh in istio-system" in cluster.ctl("check", status=1)
    assert "✔ the mesh is installed" in cluster.ctl("install", "-y", *VALUES)
    cluster.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
    out = cluster.ctl("check", "--wait", str(DEADLINE_S))
    assert "pods answer other pods at port 15008, each as itself" in out
    assert json.loads(cluster.call())["service"] == "details"
    tap = cluster.ctl("tap", "--since", "5m", "--no-follow")
    assert "con bookinfo/client" in tap
    cluster.ctl("waypoint", "apply", "-n", "bookinfo", "--enroll-namespace", "--wait")
    assert "waypoint" in cluster.ctl("proxy-status")

    changed = (*VALUES, "--set", "logLevel=debug")
    assert "✔ ztunnel is ready" in cluster.ctl("upgrade", "-y", *changed)
    assert json.loads(cluster.call())["service"] == "details"

    cluster.ctl("waypoint", "delete", "-n", "bookinfo", "--all")
    assert "✔ nothing is left" in cluster.ctl("uninstall", "-y")
    assert json.loads(cluster.call())["service"] == "details"
    cluster.kubectl("label", "namespace", "bookinfo", "istio.io/use-waypoint-")
    left = {one for one in cluster.objects() - before if one[0] != "Pod"}
    assert left == {
        ("Namespace", "", "istio-system"),
        ("Secret", "istio-system", "istio-ca-secret"),
        ("ServiceAccount", "istio-system", "default"),
        ("ConfigMap", "istio-system", "kube-root-ca.crt"),
    }
    nodes = [cluster.local("shell", f"node-{number}", "nft", "list", "tables") for number in (1, 2)]
    assert not any("ambient" in text or "istio" in text for text in nodes), nodes
