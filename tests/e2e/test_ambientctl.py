"""The commands that look into a mesh, on a real local one with traffic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
DEADLINE_S = 90
"""Only a failure waits this long."""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/client]}}]}]
"""


class Mesh:
    def __init__(self, state: Path) -> None:
        self.environment = os.environ | {"XDG_STATE_HOME": str(state)}
        self.kubeconfig = state / "ambient-mesh" / "default" / "kubeconfig"

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, env=self.environment, timeout=DEADLINE_S
        )

    def ctl(self, *words: str, status: int = 0) -> str:
        done = self.run(AMBIENTCTL, *words)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def kubectl(self, *words: str) -> str:
        done = self.run("kubectl", "--kubeconfig", self.kubeconfig, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, path: str = "http://details:9080/details/0") -> None:
        self.ctl("local", "exec", "client", "-n", "bookinfo", "--", "curl", "-fsS", path)

    def until(self, true) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    made = Mesh(tmp_path_factory.mktemp("state"))
    made.ctl("local", "up", "--nodes", "2")
    try:
        made.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
        made.ctl("check", "--wait", str(DEADLINE_S))
        yield made
    finally:
        made.ctl("local", "down")


def test_check_and_the_states_of_every_program(mesh):
    assert "✔ connected: all 2 to the control plane" in mesh.ctl("check")
    assert mesh.ctl("proxy-status").count("ztunnel-") == 2
    assert "data plane version: 0" in mesh.ctl("version")
    assert "HBONE" in mesh.ctl("zc", "workload", "--workload-namespace", "bookinfo")
    assert "Available" in mesh.ctl("zc", "certs")


def test_traffic_is_seen_as_one_edge_with_its_padlock(mesh):
    mesh.call()

    def seen() -> bool:
        found = json.loads(mesh.ctl("graph", "-n", "bookinfo", "-o", "json"))
        return any(
            (one["source"], one["destination"], one["mutualTls"])
            == ("bookinfo/client", "bookinfo/details", True)
            for one in found
        )

    mesh.until(seen)
    ElementTree.fromstring(mesh.ctl("graph", "-n", "bookinfo", "-o", "svg"))
    mesh.until(lambda: "con bookinfo/client" in mesh.ctl("tap", "--since", "10m", "--no-follow"))


def test_a_policy_is_tried_over_what_was_seen(mesh, tmp_path):
    mesh.call()
    path = tmp_path / "policy.yaml"
    path.write_text(DENY)

    def judged() -> bool:
        done = mesh.run(AMBIENTCTL, "why", "--dry-run", "-f", str(path), "-n", "bookinfo")
        broken = "would break: spiffe://cluster.local/ns/bookinfo/sa/client"
        return done.returncode == 1 and broken in done.stdout

    mesh.until(judged)
    mesh.call()  # nothing was applied


def test_why_connects_from_inside_the_pod_and_compares(mesh, tmp_path):
    words = ("why", "bookinfo/client", "details.bookinfo", "--path", "/details/0", "--probe")
    out = mesh.ctl(*words)
    assert "the application answered 200" in out
    assert "as worked out" in out
    path = tmp_path / "policy.yaml"
    path.write_text(DENY)
    mesh.kubectl("apply", "-f", str(path))
    told = (
        "DENIED, decided by AuthorizationPolicy bookinfo/no-client",
        "refused with status 401: denied by bookinfo/no-client",
    )

    def agreed() -> bool:
        """Only when the policy has reached the control plane and the tunnel."""
        done = mesh.run(AMBIENTCTL, *words)
        return done.returncode == 0 and all(one in done.stdout for one in told)

    try:
        mesh.until(agreed)
    finally:
        mesh.kubectl("delete", "-f", str(path))
