"""What ``perf/hbone.py`` compares: two pods, and a tunnel of some make between them.

In front is whoever connects inside ``web``, behind is nginx inside ``api``; the two ends of the
tunnel are a process each, with one worker, and keep an access log.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trio

from ambient.api.pb import citadel_pb2_grpc
from ambient.api.ports import HBONE_PORT, OUTBOUND_PORT, PROXY_MARK
from ambient.net.core import rules
from ambient.net.io import nft, socket_map
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.sockets import SO_MARK
from perf.load import BODY, REQUEST
from tests.bpf import mount_bpf_fs
from tests.fakes.ca_server import FakeCa
from tests.fakes.certs import TestCa
from tests.fakes.zds_agent import ZdsAgent
from tests.interop.envoy import Envoy, binary
from tests.netns.lan import Lan, Pod

APP_PORT = 18080
CA_NAME, BRIDGE_IP = "ca.perf", "10.77.0.1"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 32768; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h; sendfile on;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 0.0.0.0:{port} backlog=4096;
    location / {{ return 200 "{body}\\n"; }}
    location /big/ {{ alias {www}/; }}
  }}
}}
"""


@dataclass
class Pair:
    """A tunnel between two pods. ``address`` is what a client in ``web`` connects to."""

    name: str
    web: Pod
    api: Pod
    address: tuple[str, int]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, *command: str) -> list[str]:
        """``command``, run in the client's pod."""
        return ["ip", "netns", "exec", self.web.name, *command]

    def cpu_s(self) -> float:
        """Processor time that both ends have used until now."""
        ticks = 0
        for process in self.processes:
            stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])  # utime, stime; proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident memory of one end, the mean of both."""
        pages = [int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in self.processes]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / len(pages) / 1e6


class Stage:
    """Makes pairs; everything ends with the stack."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._lan = Lan()
        stack.callback(self._lan.close)
        self._www = folder / "www"
        self._www.mkdir()
        with (self._www / "64g").open("wb") as endless:
            endless.truncate(64 << 30)  # holes only
        folder.chmod(0o755)

    def pods(self, name: str) -> Pair:
        """The pods and the application of a pair."""
        web, api = self._lan.pod(f"{name}-web"), self._lan.pod(f"{name}-api")
        own = self._folder / api.name
        own.mkdir()
        body = BODY.decode().strip()
        text = NGINX.format(folder=own, www=self._www, port=APP_PORT, body=body)
        (own / "nginx.conf").write_text(text)
        self._start(api.name, ["nginx", "-c", str(own / "nginx.conf")], own / "nginx.log")
        return Pair(name, web, api, (api.ip, APP_PORT))

    def envoy(self) -> Pair:
        """Two Envoys, captured as ztunnel is: TCP proxy with tunnelling, CONNECT terminated."""
        pair = self.pods("envoy")
        ca = TestCa()
        ends = [Envoy(self._folder, ca, f"envoy-{end}") for end in ("api", "web")]
        ends[0].add_server(HBONE_PORT, APP_PORT, ca.issue("api"))
        ends[1].add_client(OUTBOUND_PORT, HBONE_PORT, ca.issue("web"), f"{pair.api.ip}:{APP_PORT}")
        for number, (end, pod) in enumerate(zip(ends, (pair.api, pair.web), strict=True), 1):
            _adapt(end, pair.api.ip)
            path = self._folder / f"{pod.name}.json"
            resources = {"listeners": end.listeners, "clusters": end.clusters}
            path.write_text(json.dumps({"static_resources": resources}))
            command = [str(binary()), "-c", str(path), "--concurrency", "1"]
            log = self._folder / f"{pod.name}.log"
            command += ["--base-id", str(number)]
            pair.processes.append(self._start(pod.name, command, log))
            nft.apply(pod.netns, rules.enrolled(rules.Options(dns=False)))
        wait_for(pair)
        return pair

    async def ztunnels(self, name: str, command: Sequence[str]) -> Pair:
        """Two node tunnels as programs, ours or Istio's, each with one pod and a node agent."""
        pair = self.pods(name)
        mesh = self._folder / f"{name}.yaml"
        mesh.write_text(_local_state(pair.web, pair.api))
        certificates = self._certificates(name)
        for pod in (pair.web, pair.api):
            node = self._lan.pod(f"{pod.name}-node")
            agent = ZdsAgent(self._folder / f"{pod.name}.sock")
            self._stack.callback(agent.close)
            env = (
                os.environ
                | certificates
                | {
                    "XDS_ADDRESS": "",
                    "LOCAL_XDS_PATH": str(mesh),
                    "INPOD_UDS": str(agent.path),
                    "NODE_NAME": node.name,
                    "ZTUNNEL_WORKER_THREADS": "1",
                    "ISTIO_META_DNS_CAPTURE": "false",
                }
            )
            log = self._folder / f"{node.name}.log"
            pair.processes.append(self._start(node.name, [*command, "proxy", "ztunnel"], log, env))
            link = await self._stack.enter_async_context(agent.connection())
            refusal = await link.add(pod.netns, f"uid-{pod.name}", pod.name, "perf", pod.name)
            if refusal:
                raise SystemExit(f"error: {name} does not serve {pod.name}: {refusal}")
            await link.snapshot()
            nft.apply(pod.netns, rules.enrolled(rules.Options(dns=False)))
        await trio.to_thread.run_sync(wait_for, pair)
        return pair

    async def joined_ztunnels(self, name: str, command: Sequence[str]) -> Pair:
        """The same, with a socket map between the pods' processes and their tunnels."""
        mount_bpf_fs()
        self._stack.callback(socket_map.remove_socket_map)
        joining = self._stack.enter_context(socket_map.open_socket_map("/proc"))
        pair = await self.ztunnels(name, command)
        for pod in (pair.web, pair.api):
            joining.admit(netns_cookie(pod.netns), socket_map.Directions.BOTH)
        return pair

    def _certificates(self, name: str) -> dict[str, str]:
        """A CA that signs for both ends, and how a tunnel is told of it."""
        ca = FakeCa()
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        citadel_pb2_grpc.add_IstioCertificateServiceServicer_to_server(ca, server)
        credentials = grpc.ssl_server_credentials([ca.authority.server_pair(CA_NAME)])
        port = server.add_secure_port(f"{BRIDGE_IP}:0", credentials)
        server.start()
        self._stack.callback(lambda: server.stop(0).wait())
        roots, token = self._folder / f"{name}-roots.pem", self._folder / f"{name}-token"
        roots.write_bytes(ca.authority.root_pem)
        token.write_text(ca.token)
        return {
            "CA_ADDRESS": f"https://{BRIDGE_IP}:{port}",
            "CA_ROOT_CA": str(roots),
            "ALT_CA_HOSTNAME": CA_NAME,
            "AUTH_TOKEN": str(token),
        }

    def _start(
        self, pod: str, command: Sequence[str], log: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            # ip-netns becomes the command, so the process id is the command's
            process = subprocess.Popen(
                ["ip", "netns", "exec", pod, *command], stdout=output, stderr=output, env=env
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.send_signal, signal.SIGKILL)
        return process


def wait_for(pair: Pair) -> None:
    """Until the application answers through the tunnel."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with pair.web.netns.run(socket.socket) as sock, suppress(OSError):
            sock.settimeout(1)
            sock.connect(pair.address)
            sock.sendall(REQUEST)
            if sock.recv(65_536):
                return
        time.sleep(0.05)
    raise SystemExit(f"error: nothing comes through the tunnel of {pair.name}")


def _local_state(*pods: Pod) -> str:
    """The mesh as a file tells it to a tunnel; JSON is YAML, too."""
    workloads = [
        {
            "uid": f"Kubernetes//Pod/perf/{pod.name}",
            "name": pod.name,
            "namespace": "perf",
            "serviceAccount": pod.name,
            "trustDomain": "cluster.local",
            "workloadIps": [pod.ip],
            "protocol": "HBONE",
            "node": f"{pod.name}-node",
            "services": {},
        }
        for pod in pods
    ]
    return json.dumps({"workloads": workloads, "services": [], "policies": []})


def _adapt(envoy: Envoy, server_ip: str) -> None:
    """The tests' Envoy lives on localhost; this one spans two pods: marked, with an access log."""
    log = {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
        },
    }
    options = [{"level": socket.SOL_SOCKET, "name": SO_MARK, "int_value": PROXY_MARK}]
    for listener in envoy.listeners:
        listener["socket_options"] = options
        listener["address"]["socket_address"]["address"] = "0.0.0.0"
        listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = [log]
    for cluster in envoy.clusters:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address: dict[str, Any] = endpoint["endpoint"]["address"]["socket_address"]
        if address["port_value"] != APP_PORT:
            address["address"] = server_ip
        cluster["upstream_bind_config"] = {"socket_options": options}
        # far above what is asked for: the defaults stop at 1,024 connections and requests
        limits = ("max_connections", "max_pending_requests", "max_requests")
        cluster["circuit_breakers"] = {"thresholds": [dict.fromkeys(limits, 100_000)]}
