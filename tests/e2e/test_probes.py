"""A whole mesh under STRICT: who comes in past the tunnel (probes of the kubelet) and who does not,
until it is enrolled (a process outside Kubernetes)."""

from __future__ import annotations

import json
import subprocess

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

    # A process that no kubelet started, in a namespace of its own on the other node.
    command = [AMBIENTCTL, "local", "shell", "node-2", "--", "sh", "-ec", VM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=host.environment):
        a_guest_joins(host, address)


def a_guest_joins(host: Host, address: str) -> None:
    host.kubectl("create", "serviceaccount", "billing", "-n", "shop")
    until(lambda: curl_from_vm(host, address) in REFUSED)
    told = "shop/billing at 10.244.2.200 is in the mesh as shop/billing"
    until(lambda: told in host.run(AMBIENTCTL, "local", "shell", "node-2", "--", *ENROLL).stdout)
    until(lambda: curl_from_vm(host, address) == 0)
    logs = host.local("logs", *ztunnel_of(host, "node-1"), "-n", "istio-system")
    assert "spiffe://cluster.local/ns/shop/sa/billing" in logs
    host.local("shell", "node-2", "--", AMBIENTCTL, "unenroll", "shop/billing", *SOCKET)
    until(lambda: curl_from_vm(host, address) in REFUSED)


REFUSED = (7, 52, 56)  # curl: no connection, an empty answer, a reset

VM = """
ip netns add vm
ip link add vm0 type veth peer name eth0 netns vm
ip addr add 10.244.2.250/32 dev vm0
ip link set vm0 up
ip -n vm link set lo up
ip -n vm addr add 10.244.2.200/32 dev eth0
ip -n vm link set eth0 up
ip -n vm route add 10.244.2.250 dev eth0
ip -n vm route add default via 10.244.2.250
ip route add 10.244.2.200/32 dev vm0
echo $$ > /run/vm.pid
exec nsenter --net=/run/netns/vm cat
"""
# Node's folders as the mesh's own processes see them; on a real node it is /var/run.
SOCKET = ["--agent-socket", "/run/ambient/nodes/node-2/run/istio-cni/pluginevent.sock"]
ENROLL = [
    "sh",
    "-c",
    f"{AMBIENTCTL} enroll --pid $(cat /run/vm.pid) --identity shop/billing {' '.join(SOCKET)}",
]


def curl_from_vm(host: Host, address: str) -> int:
    command = ["ip", "netns", "exec", "vm", "curl", "-sS", "--max-time", "10", "-o", "/dev/null"]
    command += [f"http://{address}:8080/"]
    return host.run(AMBIENTCTL, "local", "shell", "node-2", "--", *command).returncode


def ztunnel_of(host: Host, node: str) -> list[str]:
    pods = host.kubectl("get", "pods", "-n", "istio-system", "-l", "app=ztunnel", "-o", "json")
    items = json.loads(pods)["items"]
    return [pod["metadata"]["name"] for pod in items if pod["spec"]["nodeName"] == node]


def get(host: Host, pod: str) -> dict:
    return json.loads(host.kubectl("get", "pod", pod, "-n", "shop", "-o", "json"))


def probes(host: Host) -> int:
    """How many requests the application saw from the probe address."""
    return host.local("logs", "web", "-n", "shop").count("169.254.7.127 - - ")


def curl(host: Host, pod: str, namespace: str, address: str) -> int:
    command = ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", f"http://{address}:8080/"]
    return host.run(AMBIENTCTL, "local", "exec", pod, "-n", namespace, "--", *command).returncode
