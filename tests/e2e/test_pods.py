"""A whole mesh and its pods: who comes in under STRICT (probes of the kubelet past the tunnel, a
process outside Kubernetes once it is enrolled), and who answers when they ask for a name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.test_local import AMBIENTCTL, DEADLINE_S, Host, until

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %(name)s, namespace: %(namespace)s, annotations: {%(annotation)s}}
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


SLEEPER = {"node": "node-2", "command": "[sleep, infinity]", "probe": "", "annotation": ""}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("state"))
    made.local("up", "--sample", "none", "--nodes", "2")
    try:
        yield made
    finally:
        made.run(AMBIENTCTL, "local", "down")


def start(host: Host, namespace: str, pods: list[dict[str, str]], more: str = "") -> None:
    """Pods that are ready, and a namespace of the mesh for those of them that belong to it."""
    host.kubectl("create", "namespace", namespace)
    host.kubectl("label", "namespace", namespace, "istio.io/dataplane-mode=ambient")
    host.kubectl("apply", "-f", "-", stdin="".join(POD % (SLEEPER | pod) for pod in pods) + more)
    for pod in pods:
        words = ("pod", pod["name"], "-n", pod["namespace"], f"--timeout={DEADLINE_S}s")
        host.kubectl("wait", "--for=condition=Ready", *words)


def test_pain_05_a_probed_pod_stays_ready_under_strict(host: Host) -> None:
    web = {"name": "web", "namespace": "shop", "node": "node-1"}
    pods = [
        web | {"command": SERVER, "probe": PROBE},
        {"name": "member", "namespace": "shop"},
        {"name": "outsider", "namespace": "default"},
    ]
    start(host, "shop", pods)
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


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: names}
spec: {clusterIP: 10.96.77.7, ports: [{port: 80}]}
"""
TUNNEL_TTL_S, CLUSTER_TTL_S = 30, 5
ASK = """
import socket, sys
server = open("/etc/resolv.conf").read().split()[1]
name = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[1].split("."))
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(10)
    sock.sendto(b"\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\0\\1\\0\\1", (server, 53))
    data = sock.recv(600)
print(socket.inet_ntoa(data[-4:]), int.from_bytes(data[-10:-6], "big"))
"""


def test_names_are_answered_by_the_tunnel_unless_a_pod_says_no(host: Host) -> None:
    refuses = 'ambient.istio.io/dns-capture: "false"'
    pods = [
        {"name": "member", "namespace": "names"},
        {"name": "refuser", "namespace": "names", "annotation": refuses},
        {"name": "stranger", "namespace": "default"},
    ]
    start(host, "names", pods, SERVICE)
    until(lambda: answer(host, "member") == ["10.96.77.7", str(TUNNEL_TTL_S)])
    assert answer(host, "refuser") == ["10.96.77.7", str(CLUSTER_TTL_S)]
    assert answer(host, "stranger", "default") == ["10.96.77.7", str(CLUSTER_TTL_S)]
    resolved = host.local("exec", "member", "-n", "names", "--", "getent", "ahostsv4", "api")
    assert resolved.split()[0] == "10.96.77.7"

    # The annotation also works on pods that run.
    host.kubectl("annotate", "pod", "refuser", "-n", "names", "ambient.istio.io/dns-capture-")
    until(lambda: answer(host, "refuser")[1] == str(TUNNEL_TTL_S))
    (tunnel,) = ztunnel_of(host, SLEEPER["node"])
    ask = ["curl", "-sS", "127.0.0.1:15020/metrics"]
    metrics = host.local("exec", tunnel, "-n", "istio-system", "--", *ask)
    assert 'istio_dns_requests_total{request_protocol="udp",request_query_type="a"' in metrics


def answer(host: Host, pod: str, namespace: str = "names") -> list[str]:
    """Address and TTL of the service, as an application in the pod is told."""
    name = "api.names.svc.cluster.local"
    return host.local("exec", pod, "-n", namespace, "--", "python3", "-c", ASK, name).split()
