"""Faults planted in a mesh that runs: ``check``, ``why`` and ``analyze`` find what is theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
DEADLINE_S = 120
"""Only a failure waits this long."""
SHOP = "bookinfo"
CALL = ("why", f"{SHOP}/client", f"details.{SHOP}:9080")
SLEEPER = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane_mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: sleeper, namespace: shop}
spec: {containers: [{name: c, image: none, command: [sleep, infinity]}]}
"""
NETWORK_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: details, namespace: bookinfo}
spec:
  podSelector: {matchLabels: {app: details}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}], ports: [{port: 9080}]}]
"""
CONFLICT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client-may, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: details}}
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/client]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-may, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {namespaces: [bookinfo]}}]}]
"""


class Mesh:
    def __init__(self, state: Path) -> None:
        self.environment = os.environ | {"XDG_STATE_HOME": str(state)}
        self.kubeconfig = state / "ambient-mesh" / "default" / "kubeconfig"

    def run(self, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, input=stdin, env=self.environment, timeout=180
        )

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = self.run(AMBIENTCTL, *words)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def kubectl(self, *words: str, stdin: str = "") -> str:
        done = self.run("kubectl", "--kubeconfig", self.kubeconfig, *words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def bad(self) -> list[dict[str, str]]:
        """Lines of ``check`` that are not well; each has a remedy."""
        found = json.loads(self.ctl("check", "-o", "json").stdout)
        # A local mesh has one replica of its control plane, whatever happens.
        found = [one for one in found if one["name"] != "availability"]
        bad = [one for one in found if one["state"] not in ("ok", "skipped")]
        assert all(one["remedy"] for one in bad), bad
        return bad

    def checked(self, *parts: str) -> dict[str, str]:
        """Until ``check`` has a line with all these words."""
        found: list[dict[str, str]] = []

        def there() -> bool:
            found[:] = self.bad()
            return any(all(part in str(one) for part in parts) for one in found)

        try:
            until(there)
        except AssertionError:
            raise AssertionError((parts, found)) from None
        return next(one for one in found if all(part in str(one) for part in parts))

    def healthy(self) -> None:
        """Until the mesh is as before."""
        found: list[dict[str, str]] = []

        def well() -> bool:
            found[:] = self.bad()
            return not found

        try:
            until(well)
        except AssertionError:
            raise AssertionError(found) from None

    def why(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ctl(*words, "-o", "json").stdout)
        return found

    def analyzed(self, code: str) -> dict[str, Any]:
        done = self.ctl("analyze", "-A", "-o", "json")
        found = [one for one in json.loads(done.stdout) if one["code"] == code]
        assert found, done.stdout
        one: dict[str, Any] = found[0]
        return one

    def pod(self, app: str, namespace: str = SHOP) -> str:
        name = self.kubectl(
            "get", "pods", "-n", namespace, "-l", f"app={app}",
            "-o", "jsonpath={.items[0].metadata.name}",
        )  # fmt: skip
        return name.strip()

    @contextmanager
    def applied(self, text: str) -> Iterator[None]:
        self.kubectl("apply", "-f", "-", stdin=text)
        try:
            yield
        finally:
            self.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    made = Mesh(tmp_path_factory.mktemp("state"))
    done = made.ctl("local", "up", "--nodes", "2")
    assert done.returncode == 0, done.stderr
    try:
        made.kubectl("label", "namespace", SHOP, "istio.io/dataplane-mode=ambient")
        made.healthy()
        yield made
    finally:
        made.ctl("local", "down")


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """Well before each test and after it."""
    yield running
    running.healthy()


def test_a_healthy_mesh_is_probed_and_nothing_is_wrong(mesh: Mesh) -> None:
    out = mesh.ctl("check").stdout
    assert "pods answer other pods at port 15008, each as itself" in out
    assert mesh.why(*CALL)["allowed"] is True
    assert mesh.why(*CALL)["notes"] == []


def test_wrong_label(mesh: Mesh) -> None:
    with mesh.applied(SLEEPER):
        mesh.kubectl("wait", "pod/sleeper", "-n", "shop", "--for=condition=Ready", "--timeout=60s")
        one = mesh.checked("AMB0302", "Namespace shop")
        assert one["remedy"] == "did you mean istio.io/dataplane-mode?"
        assert mesh.analyzed("AMB0302")["origin"] == "Namespace shop"
        answer = mesh.why("why", "shop/sleeper", f"details.{SHOP}:9080")
        assert answer["notes"][0]["remedy"] == (
            "kubectl label namespace shop istio.io/dataplane-mode=ambient"
        )


def test_missing_waypoint(mesh: Mesh) -> None:
    mesh.kubectl("label", "service", "details", "-n", SHOP, "istio.io/use-waypoint=wypoint")
    try:
        remedy = f"ambientctl waypoint apply -n {SHOP} --name wypoint"
        one = mesh.checked("AMB0201", f"Service {SHOP}/details")
        assert one["remedy"] == remedy
        assert f"there is no waypoint {SHOP}/wypoint" in mesh.analyzed("AMB0201")["message"]
        (note,) = mesh.why(*CALL)["notes"]
        assert note["remedy"].startswith(remedy)
    finally:
        mesh.kubectl("label", "service", "details", "-n", SHOP, "istio.io/use-waypoint-")


def test_pain_3_a_network_policy_that_blocks_15008(mesh: Mesh) -> None:
    with mesh.applied(NETWORK_POLICY):
        one = mesh.checked("network-policies", f"NetworkPolicy {SHOP}/details")
        assert one["remedy"] == "add {protocol: TCP, port: 15008} to the ports of this rule"
        assert "15008" in mesh.analyzed("AMB0401")["message"]
        answer = mesh.why(*CALL)
        assert answer["allowed"] is False
        assert answer["decided_by"] == f"NetworkPolicy {SHOP}/details"
        assert "port: 15008} to the ports of spec.ingress[0]" in answer["change"]


@pytest.mark.parametrize(
    ("verdict", "said", "remedy"),
    [
        ("drop", "no answer within", "let TCP 15008 through"),
        ("reject with tcp reset", "refused", "nobody listens there"),
    ],
)
def test_pain_3_a_firewall_that_blocks_15008(
    mesh: Mesh, verdict: str, said: str, remedy: str
) -> None:
    pod = mesh.pod("details")

    def nft(*words: str) -> None:
        done = mesh.ctl("local", "exec", pod, "-n", SHOP, "--", "nft", *words)
        assert done.returncode == 0, done.stderr

    nft("add table inet fault")
    try:
        nft("add chain inet fault in { type filter hook input priority -200; }")
        nft(f"add rule inet fault in iif != lo tcp dport 15008 {verdict}")
        one = mesh.checked("reachability", f"{SHOP}/{pod}")
        assert f"cannot reach the tunnel of {SHOP}/{pod}" in one["text"]
        assert said in one["text"]
        assert remedy in one["remedy"]
    finally:
        nft("delete table inet fault")


def test_conflicting_policies(mesh: Mesh) -> None:
    with mesh.applied(CONFLICT):
        one = mesh.checked("AMB0103", f"AuthorizationPolicy {SHOP}/client-may")
        assert f"{SHOP}/nobody-may" in one["text"]
        assert f"{SHOP}/nobody-may" in mesh.analyzed("AMB0103")["message"]
        answer = mesh.why(*CALL)
        assert answer["decided_by"] == f"AuthorizationPolicy {SHOP}/nobody-may"
        assert answer["change"].endswith(f"AuthorizationPolicy {SHOP}/nobody-may")


def test_clock_skew(mesh: Mesh) -> None:
    """The lease that a kubelet with a fast clock would write; the local mesh's writes none."""
    renewed = datetime.now(UTC) + timedelta(minutes=10)
    lease = json.dumps(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "node-2", "namespace": "kube-node-lease"},
            "spec": {"renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
        }
    )
    with mesh.applied(lease):
        one = mesh.checked("clock skew: node-2 (")
        assert "run a time service there" in one["remedy"]


def test_agent_down(mesh: Mesh) -> None:
    pods = mesh.ctl("local", "status", "-o", "json").stdout
    (agent, *_) = [
        one for one in json.loads(pods)["pods"] if one["name"].startswith("istio-cni-node-")
    ]

    def signal(name: str) -> None:
        pid = str(agent["containers"]["install-cni"])
        words = ("local", "exec", agent["name"], "-n", "istio-system", "--", "kill", name, pid)
        assert mesh.ctl(*words).returncode == 0

    signal("-STOP")
    try:
        one = mesh.checked("cni", f"missing on {agent['node']}: pods of the mesh wait to start")
        assert "get pods" in one["remedy"]
        mesh.checked("cni", f"the agent on {agent['node']} is not ready", "no answer within 5 s")
    finally:
        signal("-CONT")


def test_expired_certificate(mesh: Mesh) -> None:
    """Certificates that live seconds, and nobody who would renew them."""
    system = ("-n", "istio-system")
    mesh.kubectl("set", "env", "daemonset/ztunnel", *system, "SECRET_TTL=20s")
    try:
        mesh.kubectl("rollout", "status", "daemonset/ztunnel", *system, "--timeout=90s")
        mesh.kubectl("scale", "deployment/istiod", *system, "--replicas=0")
        one = mesh.checked("certificates", f"ns/{SHOP}/sa/", "expired at ")
        assert one["remedy"] == "kubectl -n istio-system logs -l app=istiod --tail 50 | grep csr"
        mesh.checked("reachability", "cannot reach the tunnel of", "certificate")
    finally:
        mesh.kubectl("scale", "deployment/istiod", *system, "--replicas=1")
        mesh.kubectl("set", "env", "daemonset/ztunnel", *system, "SECRET_TTL-")
        mesh.kubectl("rollout", "status", "daemonset/ztunnel", *system, "--timeout=90s")
