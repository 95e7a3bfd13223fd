"""Names on a whole mesh: the tunnel answers its pods, the cluster's DNS answers all others."""

from __future__ import annotations

from tests.e2e.test_local import Host, host, until

__all__ = ["host"]  # a fixture

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %(name)s, namespace: %(namespace)s, annotations: {%(annotation)s}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
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
    host.local("up", "--sample", "none", "--nodes", "1")
    host.kubectl("create", "namespace", "shop")
    host.kubectl("label", "namespace", "shop", "istio.io/dataplane-mode=ambient")
    refuses = 'ambient.istio.io/dns-capture: "false"'
    pods = [
        {"name": "member", "namespace": "shop", "annotation": ""},
        {"name": "refuser", "namespace": "shop", "annotation": refuses},
        {"name": "outsider", "namespace": "default", "annotation": ""},
    ]
    host.kubectl("apply", "-f", "-", stdin="".join(POD % pod for pod in pods) + SERVICE)
    for pod in pods:
        host.kubectl("wait", "--for=condition=Ready", "pod", pod["name"], "-n", pod["namespace"])
    until(lambda: answer(host, "member") == ["10.96.77.7", str(TUNNEL_TTL_S)])
    assert answer(host, "refuser") == ["10.96.77.7", str(CLUSTER_TTL_S)]
    assert answer(host, "outsider", "default") == ["10.96.77.7", str(CLUSTER_TTL_S)]
    resolved = host.local("exec", "member", "-n", "shop", "--", "getent", "ahostsv4", "api")
    assert resolved.split()[0] == "10.96.77.7"

    # The annotation also works on pods that run.
    host.kubectl("annotate", "pod", "refuser", "-n", "shop", "ambient.istio.io/dns-capture-")
    until(lambda: answer(host, "refuser")[1] == str(TUNNEL_TTL_S))
    tunnel = host.kubectl("get", "pods", "-n", "istio-system", "-l", "app=ztunnel", "-o", "name")
    ask = ["curl", "-sS", "127.0.0.1:15020/metrics"]
    name = tunnel.split()[0].removeprefix("pod/")
    metrics = host.local("exec", name, "-n", "istio-system", "--", *ask)
    assert 'istio_dns_requests_total{request_protocol="udp",request_query_type="a"' in metrics


def answer(host: Host, pod: str, namespace: str = "shop") -> list[str]:
    """Address and TTL of the service, as an application in the pod is told."""
    name = "api.shop.svc.cluster.local"
    return host.local("exec", pod, "-n", namespace, "--", "python3", "-c", ASK, name).split()
