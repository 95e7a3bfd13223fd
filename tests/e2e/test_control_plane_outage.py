"""Traffic while the control plane dies: what works goes on working, and it comes back by itself."""

from __future__ import annotations

import json
import subprocess

from tests.e2e.test_local import AMBIENTCTL, Host, host, until

__all__ = ["host"]  # a fixture

ECHO = (
    "import socketserver as s\n"
    "class H(s.StreamRequestHandler):\n"
    "  def handle(self):\n"
    "    for line in self.rfile: self.wfile.write(line)\n"
    "class T(s.ThreadingTCPServer): allow_reuse_address = True\n"
    "T(('', 9000), H).serve_forever()"
)
# One connection for the whole time, and a new one every tenth of a second; failures are counted.
CALLS = (
    "import os, socket, sys, time\n"
    "def call(c):\n"
    "  c.sendall(b'x\\n'); assert c.recv(9) == b'x\\n'\n"
    "def dial(): return socket.create_connection((sys.argv[1], 9000), 5)\n"
    "old, fails, calls = dial(), 0, 0\n"
    "call(old); open('/var/run/started', 'w')\n"
    "while not os.path.exists('/var/run/stop'):\n"
    "  call(old); calls += 1\n"
    "  try:\n"
    "    with dial() as new: call(new)\n"
    "  except (OSError, AssertionError): fails += 1\n"
    "  time.sleep(0.1)\n"
    "print(calls, fails)"
)
DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec: {action: DENY, rules: [{}]}
"""


def pod(name: str, node: str, command: list[str]) -> str:
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "none", "command": command}],
    }
    metadata = {"name": name, "namespace": "shop"}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def replicas(host: Host) -> list[dict]:
    found = host.kubectl("get", "pods", "-n", "istio-system", "-l", "app=istiod", "-o", "json")
    return json.loads(found)["items"]


def name_of(found: dict) -> str:
    return found["metadata"]["name"]


def ready(found: dict) -> bool:
    conditions = found.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def add_replica(host: Host) -> None:
    """A second one on the other node, since replicas share their node's ports."""
    (first,) = replicas(host)
    second = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "istiod-second",
            "namespace": "istio-system",
            "labels": {"app": "istiod", "istio": "pilot"},
        },
        "spec": first["spec"] | {"nodeName": {"node-1": "node-2", "node-2": "node-1"}[
            first["spec"]["nodeName"]]},
    }  # fmt: skip
    volumes = [one for one in second["spec"]["volumes"] if "kube-api-access" not in one["name"]]
    second["spec"]["volumes"] = volumes
    for container in second["spec"]["containers"]:
        container["volumeMounts"] = [
            one for one in container["volumeMounts"] if "kube-api-access" not in one["name"]
        ]
    host.kubectl("apply", "-f", "-", stdin=json.dumps(second))
    until(lambda: all(ready(one) for one in replicas(host)) and len(replicas(host)) == 2)


def kill(host: Host, *names: str) -> None:
    now = ("--grace-period=0", "--force", "--wait=false")
    host.kubectl("delete", "pod", "-n", "istio-system", *now, *names)


def test_no_connection_is_lost_with_the_leader_nor_with_all_replicas(host: Host) -> None:
    host.local("up", "--sample", "none", "--nodes", "2")
    host.kubectl("create", "namespace", "shop")
    host.kubectl("label", "namespace", "shop", "istio.io/dataplane-mode=ambient")
    for name, node, command in (
        ("web", "node-1", ["python3", "-c", ECHO]),
        ("client", "node-2", ["sleep", "infinity"]),
    ):
        host.kubectl("apply", "-f", "-", stdin=pod(name, node, command))
        host.kubectl("wait", "--for=condition=Ready", "pod", name, "-n", "shop")
    web = json.loads(host.kubectl("get", "pod", "web", "-n", "shop", "-o", "json"))
    address = web["status"]["podIP"]
    add_replica(host)
    lease = "istiod-lite-writer"
    found = json.loads(host.kubectl("get", "lease", lease, "-n", "istio-system", "-o", "json"))
    leader = found["spec"]["holderIdentity"].partition("_")[0]

    calls = [AMBIENTCTL, "local", "exec", "client", "-n", "shop", "--", "python3", "-c", CALLS]
    with subprocess.Popen(
        [*calls, address], env=host.environment, stdout=subprocess.PIPE, text=True
    ) as traffic:
        inside = ("exec", "client", "-n", "shop", "--")
        started = [AMBIENTCTL, "local", *inside, "test", "-e", "/var/run/started"]
        until(lambda: host.run(*started).returncode == 0)
        kill(host, leader)
        until(lambda: leader not in {name_of(one) for one in replicas(host)})
        gone = {name_of(one) for one in replicas(host)}
        kill(host, *gone)
        until(lambda: any(ready(one) for one in replicas(host) if name_of(one) not in gone))
        host.local(*inside, "touch", "/var/run/stop")
        assert traffic.stdout is not None
        made, failed = map(int, traffic.stdout.read().split())
    assert (made > 10, failed) == (True, 0)

    # The mesh follows changes again.
    host.kubectl("apply", "-f", "-", stdin=DENY)
    once = f"import socket; c = socket.create_connection(('{address}', 9000), 5); "
    once += "c.sendall(b'x\\n'); assert c.recv(9)"
    refused = [AMBIENTCTL, "local", *inside, "python3", "-c", once]
    until(lambda: host.run(*refused).returncode != 0)
