"""Health probes on a whole mesh: its kubelets probe from the node, as everywhere."""

from __future__ import annotations

import json

from tests.e2e.test_local import AMBIENTCTL, Host, host, until

__all__ = ["host"]  # a fixture

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %(name)s, namespace: %(namespace)s}
spec:
  nodeName: %(node)s
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: none
    command: %(command)s
    %(probe)s
---
"""
SERVER = '[python3, -u, -m, http.server, "8080", --directory, /var/run]'
PROBE = "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}"
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""


def test_pain_05_a_probed_pod_stays_ready_under_strict(host: Host) -> None:
    host.local("up", "--sample", "none", "--nodes", "2")
    host.kubectl("create", "namespace", "shop")
    host.kubectl("label", "namespace", "shop", "istio.io/dataplane-mode=ambient")
    sleeper = {"command": "[sleep, infinity]", "probe": ""}
    pods = [
        {"name": "web", "namespace": "shop", "node": "node-1", "command": SERVER, "probe": PROBE},
        {"name": "member", "namespace": "shop", "node": "node-2", **sleeper},
        {"name": "outsider", "namespace": "default", "node": "node-2", **sleeper},
    ]
    host.kubectl("apply", "-f", "-", stdin="".join(POD % pod for pod in pods))
    for pod in pods:
        host.kubectl("wait", "--for=condition=Ready", "pod", pod["name"], "-n", pod["namespace"])
    address = get(host, "web")["status"]["podIP"]
    assert curl(host, "outsider", "default", address) == 0, "permissive: everybody may call"

    host.kubectl("apply", "-f", "-", stdin=STRICT)
    until(lambda: curl(host, "outsider", "default", address) != 0)
    assert curl(host, "member", "shop", address) == 0, "the mesh may"

    seen = probes(host)
    until(lambda: probes(host) >= seen + 3)
    status = get(host, "web")["status"]
    assert status["containerStatuses"][0]["restartCount"] == 0
    assert [c["status"] for c in status["conditions"] if c["type"] == "Ready"] == ["True"]
    events = json.loads(host.kubectl("get", "events", "-n", "shop", "-o", "json"))["items"]
    assert [event["message"] for event in events if event["reason"] == "Unhealthy"] == []


def get(host: Host, pod: str) -> dict:
    return json.loads(host.kubectl("get", "pod", pod, "-n", "shop", "-o", "json"))


def probes(host: Host) -> int:
    """How many requests the application saw from the probe address."""
    return host.local("logs", "web", "-n", "shop").count("169.254.7.127 - - ")


def curl(host: Host, pod: str, namespace: str, address: str) -> int:
    command = ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", f"http://{address}:8080/"]
    return host.run(AMBIENTCTL, "local", "exec", pod, "-n", namespace, "--", *command).returncode
