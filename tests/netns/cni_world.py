"""A node for CNI tests: this process's own network namespace, pods behind Debian's ptp plugin.

Everything in it is real but the API server and ztunnel: the plugins are executed as a container
runtime executes them, the agent runs in this process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambient.net.core import bpf_pods
from ambient.net.core.bpf_pods import Flag, PodValue
from ambient.net.io import bpf_programs
from ambient.net.io.bpf import Link
from ambient.net.io.bpf_flows import FOLDER, netns_cookie
from ambient.net.io.netns import Netns
from cni_plugin import app
from cni_plugin.settings import Settings
from tests.fakes.kube_api import FakeKubeApi
from tests.netns import backends

CNI_BIN = Path("/usr/lib/cni")
NODE = "node-1"
BRIDGE = "cni-test0"
PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"
DEADLINE_S = 30.0

needs_cni = pytest.mark.skipif(
    not (CNI_BIN / "ptp").exists() or os.geteuid() != 0,
    reason="needs root in a network namespace (tests/sandbox) and containernetworking-plugins",
)


class Pod:
    """One pod sandbox: a network namespace with an address."""

    def __init__(self, world: World, name: str, namespace: str, uid: str) -> None:
        self.world, self.name, self.namespace, self.uid = world, name, namespace, uid
        self.container_id = uuid.uuid4().hex
        self.path = f"/run/netns/{name}-{uid[:4]}"
        self.netns: Netns
        self.ip = self.ip6 = ""

    def ruleset(self) -> str:
        """What nft itself finds in the pod."""
        return inside(self.path, "nft", "-a", "list", "ruleset")

    def captured(self) -> set[int]:
        """Ports of the tunnel that new connections and queries of the pod are sent to."""
        rules = self.ruleset()
        return self.captured_by_ebpf() | {
            port for port in (15001, 15006, 15053) if f"redirect to :{port}" in rules
        }

    def captured_by_ebpf(self) -> set[int]:
        """Those of them to which no rule, but a program sends."""
        flags = self._flags()
        ports = ((Flag.OUTBOUND, 15001), (Flag.INBOUND, 15006), (Flag.DNS, 15053))
        return {port for flag, port in ports if flags & flag}

    def untouched(self) -> bool:
        """Whether nothing of the mesh is in the pod."""
        return self.ruleset() == "" and "100" not in self.routing() and not self._flags()

    def capture_marks(self) -> list[str]:
        """What is another thing when the redirection was made again: handles and numbers."""
        handles = [line.rpartition("# handle ")[2] for line in self.ruleset().splitlines()]
        links = []
        for path in sorted(Path(FOLDER, "pods").glob(f"{netns_cookie(self.netns)}-*")):
            with Link.pinned(path) as link:
                links.append(f"{path.name} {link.program_id}")
        return [*(handle for handle in handles if handle.isdigit()), *links]

    def _flags(self) -> int:
        maps = bpf_programs.open_maps()
        if maps is None:
            return 0
        data = maps["PODS"].get(bpf_pods.pod_key(netns_cookie(self.netns)))
        for each in maps.values():
            each.close()
        return 0 if data is None else PodValue.decode(data).flags

    def routing(self) -> str:
        """Routing rules and the reply table of both IP versions."""
        commands = ("rule", "route show table 100")
        return "".join(
            inside(self.path, "ip", version, *command.split(), check=False)
            for command in commands
            for version in ("-4", "-6")
        )

    @property
    def version(self) -> str:
        """The object's resourceVersion."""
        obj = self.world.api.get(PODS, self.namespace, self.name)
        assert obj is not None
        return str(obj["metadata"]["resourceVersion"])

    @property
    def annotation(self) -> str | None:
        """The redirection annotation as the API server has it."""
        obj = self.world.api.get(PODS, self.namespace, self.name) or {"metadata": {}}
        return (obj["metadata"].get("annotations") or {}).get("ambient.istio.io/redirection")


class World:
    """The node, its API server and its folders."""

    def __init__(self, folder: Path, api: FakeKubeApi, chain: list[dict[str, Any]]) -> None:
        self.folder, self.api = folder, api
        self.net_dir, self.bin_dir = folder / "net.d", folder / "bin"
        self.run_dir = str(folder / "run")
        self.zds = str(folder / "ztunnel.sock")
        self.proc = folder / "proc"
        kubelet = self.proc / "1"
        for path in (self.net_dir, self.bin_dir, self.proc, kubelet):
            path.mkdir()
        # Some other user than the tests': what they open on the node is no health probe.
        (kubelet / "comm").write_text("kubelet\n")
        (kubelet / "status").write_text("Name:\tkubelet\n" + "Uid:\t4711\t4711\t4711\t4711\n")
        conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": chain}
        (self.net_dir / "10-pods.conflist").write_text(json.dumps(conflist))
        self.pods: list[Pod] = []

    def settings(self, **changes: Any) -> Settings:
        values = {
            "node_name": NODE,
            "kubeconfig": self.api.kubeconfig(self.folder),
            "cni_agent_run_dir": self.run_dir,
            "ztunnel_uds_address": self.zds,
            "proc_dir": str(self.proc),
            "cni_net_dir": str(self.net_dir),
            "cni_bin_dir": str(self.bin_dir),
            "health_host": "127.0.0.1",
            "health_port": 0,
            "monitoring_host": "127.0.0.1",
            "monitoring_port": 0,
            "redirection_backend": backends.chosen,
        }
        return Settings(**{**values, **changes})

    @asynccontextmanager
    async def agent(self, **changes: Any) -> AsyncIterator[None]:
        """The node agent, until the block ends; it has installed its plugin."""
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.run, self.settings(**changes), stopping)
            sockets = (Path(self.zds), Path(self.run_dir) / "pluginevent.sock")
            await until(lambda: all(path.exists() for path in sockets))
            await until(lambda: "ambient-cni" in self.conflist_text())
            try:
                yield
            finally:
                stopping.set()

    def warnings(self) -> list[str]:
        """Messages of the Kubernetes events that the agent wrote."""
        events = self.api.objects.get("/api/v1/events", {}).values()
        return [event["message"] for event in events]

    def leases(self) -> list[str]:
        """Addresses that the network plugin has given out."""
        names = sorted((self.folder / "leases" / "pods").glob("*.*"))
        return [path.name for path in names if path.name[0].isdigit()]

    def conflist_text(self) -> str:
        return (self.net_dir / "10-pods.conflist").read_text()

    def namespace(self, name: str, mode: str | None = None) -> None:
        labels = {} if mode is None else {"istio.io/dataplane-mode": mode}
        self.api.put(NAMESPACES, {"metadata": {"name": name, "uid": name, "labels": labels}})

    def label(self, pod: Pod, mode: str) -> None:
        self.declare(pod, {"istio.io/dataplane-mode": mode})

    def declare(self, pod: Pod, labels: dict[str, str] | None = None) -> None:
        """Put the pod into the API server, or change its labels there."""
        present = self.api.get(PODS, pod.namespace, pod.name) or {"metadata": {}}
        metadata = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
        ips = [{"ip": ip} for ip in dict.fromkeys((pod.ip, pod.ip6)) if ip]
        status = {"phase": "Pending"}
        if pod.ip:
            status = {"phase": "Running", "podIP": pod.ip, "podIPs": ips}
        self.api.put(
            PODS,
            {
                "metadata": {**present["metadata"], **metadata, "labels": labels or {}},
                "spec": {"nodeName": NODE, "serviceAccountName": f"{pod.name}-sa"},
                "status": status,
            },
        )

    async def start(
        self, name: str, namespace: str = "shop", labels: dict[str, str] | None = None
    ) -> Pod:
        """A pod as kubelet and runtime make it. Raises CniFailed."""
        pod = Pod(self, name, namespace, str(uuid.uuid4()))
        self.declare(pod, labels)
        await self.sandbox(pod)
        self.declare(pod, labels)
        return pod

    async def sandbox(self, pod: Pod) -> dict[str, Any]:
        """Namespace and ADD; the final result."""
        run("ip", "netns", "add", Path(pod.path).name)
        self.pods.append(pod)
        inside(pod.path, "ip", "link", "set", "lo", "up")
        pod.netns = Netns.open(pod.path)
        result = await self.call("ADD", pod)
        pod.ip = result["ips"][0]["address"].partition("/")[0]
        pod.ip6 = result["ips"][-1]["address"].partition("/")[0]
        return result

    async def call(self, command: str, pod: Pod, **changes: Any) -> dict[str, Any]:
        """One command through the whole chain, as libcni does it."""
        conflist = json.loads(self.conflist_text())
        plugins = conflist["plugins"]
        result: dict[str, Any] = changes.pop("previous", {})
        for plugin in reversed(plugins) if command == "DEL" else plugins:
            conf = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **plugin}
            conf |= changes
            if result:
                conf["prevResult"] = result
            answer = await trio.to_thread.run_sync(self.execute, plugin["type"], command, pod, conf)
            result = answer or result
        return result

    def execute(self, kind: str, command: str, pod: Pod, conf: dict[str, Any]) -> dict[str, Any]:
        """Run one plugin. Raises CniFailed with its error object."""
        folder = self.bin_dir if kind == "ambient-cni" else CNI_BIN
        env = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.bin_dir}:{CNI_BIN}",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid};"
            f"K8S_POD_NAMESPACE={pod.namespace};K8S_POD_INFRA_CONTAINER_ID={pod.container_id}",
        }
        done = subprocess.run(
            [folder / kind], env=env, input=json.dumps(conf).encode(), capture_output=True
        )
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
        if done.returncode:
            raise CniFailed(kind, answer)
        return answer

    async def stop(self, pod: Pod) -> None:
        """The pod is deleted: DEL, namespace gone, object gone."""
        await self.call("DEL", pod)
        self.pods.remove(pod)
        self.discard(pod)
        self.api.remove(PODS, pod.namespace, pod.name)

    def close(self) -> None:
        for pod in self.pods:
            self.discard(pod)
        if BRIDGE in (name for _, name in socket.if_nameindex()):
            run("ip", "link", "del", BRIDGE)

    def discard(self, pod: Pod) -> None:
        pod.netns.close()
        # The kernel would take the pair down some time later, under the next test's feet.
        inside(pod.path, "ip", "link", "del", "eth0", check=False)
        run("ip", "netns", "del", Path(pod.path).name)


class CniFailed(Exception):  # noqa: N818
    """A plugin refused."""

    def __init__(self, plugin: str, error: dict[str, Any]) -> None:
        super().__init__(f"{plugin}: {error}")
        self.code, self.message = error.get("code"), error.get("msg", "")
        self.details = error.get("details", "")


def ptp_chain(folder: Path) -> list[dict[str, Any]]:
    """Point-to-point pods, IPv4 only."""
    ranges = [[{"subnet": "10.244.1.0/24"}]]
    ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(folder / "leases")}
    return [{"type": "ptp", "ipam": {**ipam, "routes": [{"dst": "0.0.0.0/0"}]}}]


def dual_chain(folder: Path) -> list[dict[str, Any]]:
    """Point-to-point pods with an IPv6 address too; slower, for duplicate address detection."""
    (ptp,) = ptp_chain(folder)
    ptp["ipam"]["ranges"].append([{"subnet": "fd00:10:244:1::/64"}])
    ptp["ipam"]["routes"].append({"dst": "::/0"})
    return [ptp]


def bridge_chain(folder: Path) -> list[dict[str, Any]]:
    """Pods on a bridge, IPv4 only."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.2.0/24"}]],
        "dataDir": str(folder / "leases"),
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return [{"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam}]


@asynccontextmanager
async def node(
    folder: Path, chain: Any = ptp_chain, deadline_s: float = DEADLINE_S
) -> AsyncIterator[World]:
    """A world for the duration of the block; every test is bounded by it."""
    with trio.fail_after(deadline_s):
        async with FakeKubeApi().serving() as api:
            world = World(folder, api, chain(folder))
            try:
                yield world
            finally:
                world.close()


async def until(condition: Any) -> None:
    """Look until it holds; the block's deadline bounds it."""
    while not condition():
        await trio.sleep(0.02)


def inside(path: str, *command: str, check: bool = True) -> str:
    """Run a command in a namespace; its output."""
    return run("nsenter", f"--net={path}", *command, check=check)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
