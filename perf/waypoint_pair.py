"""What ``perf/waypoint.py`` compares: a waypoint of ours and one made of Envoy's parts.

In front of both is the same client tunnel, an Envoy that wraps what comes to its ports in HBONE;
behind both is the same nginx. Everything is on loopback addresses.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from ambient.api.service import AppProtocol, NamespacedHostname, Port
from ambient.api.workload import TunnelProtocol
from ambient.identity.core.csr import new_key_and_csr
from perf.load import BODY, REQUEST
from tests.fakes.ca_server import FakeCa
from tests.fakes.certs import Issued
from tests.fakes.xds_server import SERVER_NAME, FakeControlPlane
from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.io.rig import WAYPOINT_ID
from tests.unit.waypoint.sample import (
    CURL,
    VIP,
    config,
    policy,
    service,
    virtual_service,
    workload,
)

HTTP1_PORT, HTTP2_PORT, GRPC_PORT = 9080, 9081, 9082
"""Ports of the service, and of the application behind it."""
APP_IP = "127.0.1.1"
OUR_PORT, ENVOY_PORT = 15018, 16018
ISSUER = "https://issuer.perf"
GRPC_PATH = "/perf.Echo/Unary"
_TYPES = "type.googleapis.com/envoy.extensions"
_MANAGER = "envoy.filters.network.http_connection_manager"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 32768; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h; sendfile on;
  http2_max_requests 1000000000; http2_max_concurrent_streams 1024;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen {ip}:{http1} backlog=4096;
    listen {ip}:{http2} http2 backlog=4096;
    location / {{ return 200 "{body}\\n"; }}
    location /big/ {{ alias {folder}/; }}
    location {grpc} {{
      default_type application/grpc; add_trailer grpc-status 0; alias {folder}/message;
      error_page 405 =200 $uri;
    }}
  }}
}}
"""


@dataclass
class Side:
    """A waypoint. ``address`` takes HTTP/1.1, ``http2`` and ``grpc`` HTTP/2 without TLS."""

    name: str
    address: tuple[str, int]
    http2: tuple[str, int]
    grpc: tuple[str, int]
    processes: list[int] = field(default_factory=list)

    def inside(self, *command: str) -> list[str]:
        """``command``, run where the clients are: all is on loopback."""
        return list(command)

    def _all(self) -> list[int]:
        """The processes with their children."""
        found = list(self.processes)
        for pid in found:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def cpu_s(self) -> float:
        """Processor time that the waypoint has used until now."""
        ticks = 0
        for pid in self._all():
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])  # utime, stime; proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident memory of the waypoint."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._all()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Stage:
    """Makes the sides; everything ends with the stack."""

    def __init__(self, stack: ExitStack, folder: Path, workers: int) -> None:
        self._stack = stack
        self._folder = folder
        self._workers = workers
        (folder / "message").write_bytes(b"\0\0\0\0\x05hello")
        with (folder / "64g").open("wb") as endless:
            endless.truncate(64 << 30)  # holes only
        folder.chmod(0o755)
        text = NGINX.format(
            folder=folder,
            ip=APP_IP,
            http1=HTTP1_PORT,
            http2=HTTP2_PORT,
            grpc=GRPC_PATH,
            body=BODY.decode().strip(),
        )
        (folder / "nginx.conf").write_text(text)
        self._start("nginx", ["nginx", "-c", str(folder / "nginx.conf")])
        self._start(
            "grpc", [sys.executable, "-m", "perf.grpc_echo", "serve", APP_IP, str(GRPC_PORT)]
        )
        control = FakeControlPlane(folder, ca=FakeCa(default_identity=WAYPOINT_ID), labels=True)
        self._control = stack.enter_context(control)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.keys = json.dumps({"keys": [public | {"kid": "perf", "alg": "RS256"}]})
        claims = {"iss": ISSUER, "sub": "perf", "exp": int(time.time()) + 86_400}
        self.token = jwt.encode(claims, key, "RS256", headers={"kid": "perf"})
        """Of an issuer that both waypoints believe."""
        self._ports = iter(range(10_001, 10_100))

    def sides(self) -> list[Side]:
        """Ours and Envoy's, both answering."""
        tunnel = Envoy(self._folder, None, "tunnel")
        sides = [self._side(tunnel, "ours", OUR_PORT), self._side(tunnel, "envoy", ENVOY_PORT)]
        _raise_limits(tunnel.clusters)
        self._run(tunnel, 1)
        sides[0].processes.append(self._ours())
        sides[1].processes.append(self._envoy())
        for side in sides:
            _wait_for(side)
        return sides

    def _side(self, tunnel: Envoy, name: str, waypoint_port: int) -> Side:
        """Ports of the client's tunnel that lead through one waypoint."""
        ports = []
        for port in (HTTP1_PORT, HTTP2_PORT, GRPC_PORT):
            ports.append(next(self._ports))
            tunnel.add_client(ports[-1], waypoint_port, self._issue(CURL), f"{VIP}:{port}")
        return Side(name, *(("127.0.0.1", port) for port in ports))

    def _issue(self, identity: Any) -> Issued:
        key, csr = new_key_and_csr(identity)
        leaf, roots = self._control.ca.authority.sign_csr(csr, identity)
        return Issued(identity, leaf.encode(), key, roots.encode())

    def _ours(self) -> int:
        ports = (
            Port(HTTP1_PORT, HTTP1_PORT, AppProtocol.HTTP11),
            Port(HTTP2_PORT, HTTP2_PORT, AppProtocol.HTTP2),
            Port(GRPC_PORT, GRPC_PORT, AppProtocol.GRPC),
        )
        name = NamespacedHostname("shop", "reviews.shop.svc.cluster.local")
        pod = workload(
            "reviews-v1",
            APP_IP,
            "v1",
            tunnel_protocol=TunnelProtocol.NONE,
            services={name: tuple(Port(p.service_port, p.target_port) for p in ports)},
        )
        route = {"route": [{"destination": {"host": "reviews"}}], "timeout": "15s"}
        route["match"] = [{"uri": {"prefix": "/"}}]
        rule = {"to": [{"operation": {"methods": ["DELETE"]}}]}
        targets = [{"kind": "Service", "group": "", "name": "reviews"}]
        checked = {"targetRefs": targets, "jwtRules": [{"issuer": ISSUER, "jwks": self.keys}]}
        self._control.xds.put(
            service(ports=ports),
            pod,
            virtual_service(route),
            policy([rule], "DENY"),
            config("RequestAuthentication", "perf", checked),
        )
        address = f"127.0.0.1:{self._control.port}"
        env = os.environ | {
            "POD_NAME": "waypoint-1",
            "POD_NAMESPACE": "shop",
            "INSTANCE_IP": "127.0.0.1",
            "SERVICE_ACCOUNT": "waypoint",
            "GATEWAY_NAME": "waypoint",
            "XDS_ADDRESS": f"https://{address}",
            "CA_ADDRESS": f"https://{address}",
            "XDS_ROOT_CA": str(self._control.root_ca_file),
            "ALT_XDS_HOSTNAME": SERVER_NAME,
            "ALT_CA_HOSTNAME": SERVER_NAME,
            "AUTH_TOKEN": str(self._control.token_file),
            "HBONE_PORT": str(OUR_PORT),
            "WAYPOINT_WORKERS": str(self._workers),
        }
        return self._start("ours", [sys.executable, "-m", "waypoint"], env).pid

    def _envoy(self) -> int:
        """CONNECT terminated, an internal listener for each port with RBAC and a route."""
        envoy = Envoy(self._folder, None, "waypoint")
        envoy.clusters = [
            *(_application(port) for port in (HTTP1_PORT, HTTP2_PORT, GRPC_PORT)),
            *(_inside(port) for port in (HTTP1_PORT, HTTP2_PORT, GRPC_PORT)),
        ]
        _raise_limits(envoy.clusters)
        manager = _manager(
            "connect", [_connect_host(p) for p in (HTTP1_PORT, HTTP2_PORT, GRPC_PORT)]
        )
        manager["http2_protocol_options"] = {"allow_connect": True, "max_concurrent_streams": 200}
        manager["upgrade_configs"] = [{"upgrade_type": "CONNECT"}]
        manager["http_filters"] = [_router()]
        envoy._listener(
            ENVOY_PORT,
            {"name": _MANAGER, "typed_config": manager},
            transport_socket=envoy._tls("DownstreamTlsContext", self._issue(WAYPOINT_ID)),
        )
        envoy.listeners += [
            _internal(port, self.keys) for port in (HTTP1_PORT, HTTP2_PORT, GRPC_PORT)
        ]
        return self._run(envoy, self._workers, internal=True)

    def _run(self, envoy: Envoy, concurrency: int, *, internal: bool = False) -> int:
        config: dict[str, Any] = {
            "static_resources": {"listeners": envoy.listeners, "clusters": envoy.clusters}
        }
        if internal:
            extension = f"{_TYPES}.bootstrap.internal_listener.v3.InternalListener"
            config["bootstrap_extensions"] = [
                {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": extension}}
            ]
        path = self._folder / f"{envoy._name}.json"
        path.write_text(json.dumps(config))
        command = [str(binary()), "-c", str(path), "--concurrency", str(concurrency)]
        number = str(1 + internal)
        return self._start(envoy._name, [*command, "--base-id", number]).pid

    def _start(
        self, name: str, command: Sequence[str], env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        self._stack.callback(process.wait)
        self._stack.callback(process.send_signal, signal.SIGTERM)
        return process


def _wait_for(side: Side) -> None:
    """Until the application answers through the waypoint."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(side.address, 1) as sock:
            sock.settimeout(1)
            sock.sendall(REQUEST)
            if b" 200 " in sock.recv(65_536):
                return
        time.sleep(0.05)
    raise SystemExit(f"error: nothing comes through the waypoint {side.name}")


# Parts of Envoy's configuration


def _manager(name: str, hosts: list[dict[str, Any]]) -> dict[str, Any]:
    log = f"{_TYPES}.access_loggers.stream.v3.StdoutAccessLog"
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": hosts},
        "server_name": "istio-envoy",
        "normalize_path": True,
    } | (
        {}
        if name == "connect"
        else {
            "access_log": [{"name": "envoy.access_loggers.stdout", "typed_config": {"@type": log}}]
        }
    )


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
    }


def _connect_host(port: int) -> dict[str, Any]:
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    route = {"cluster": f"inside-{port}", "upgrade_configs": [upgrade], "timeout": "0s"}
    return {
        "name": f"connect-{port}",
        "domains": [f"{VIP}:{port}"],
        "routes": [{"match": {"connect_matcher": {}}, "route": route}],
    }


def _inside(port: int) -> dict[str, Any]:
    address = {"envoy_internal_address": {"server_listener_name": f"internal-{port}"}}
    raw = f"{_TYPES}.transport_sockets.raw_buffer.v3.RawBuffer"
    inner = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": raw}}
    internal = f"{_TYPES}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"
    return {
        "name": f"inside-{port}",
        "load_assignment": {
            "cluster_name": f"inside-{port}",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {"@type": internal, "transport_socket": inner},
        },
    }


def _internal(port: int, keys: str) -> dict[str, Any]:
    """The listener of a service's port: tokens, DENY of a method, one route with a timeout."""
    route = {"cluster": f"app-{port}", "timeout": "15s"}
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": route}],
    }
    manager = _manager(f"in-{port}", [host])
    delete = {"name": ":method", "string_match": {"exact": "DELETE"}}
    rules = {
        "action": "DENY",
        "policies": {"p": {"permissions": [{"header": delete}], "principals": [{"any": True}]}},
    }
    rbac = {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": f"{_TYPES}.filters.http.rbac.v3.RBAC", "rules": rules},
    }
    manager["http_filters"] = [_tokens(keys), rbac, _router()]
    return {
        "name": f"internal-{port}",
        "internal_listener": {},
        "filter_chains": [{"filters": [{"name": _MANAGER, "typed_config": manager}]}],
    }


def _tokens(keys: str) -> dict[str, Any]:
    """A token that is there has to be good."""
    provider = {"issuer": ISSUER, "local_jwks": {"inline_string": keys}, "forward": True}
    missing = {"requires_any": {"requirements": [{"provider_name": "perf"}, {"allow_missing": {}}]}}
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{_TYPES}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"perf": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": missing}],
        },
    }


def _application(port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": APP_IP, "port_value": port}}
    made: dict[str, Any] = {
        "name": f"app-{port}",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": f"app-{port}",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if port != HTTP1_PORT:
        options = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"
        made["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return made


def _raise_limits(clusters: list[dict[str, Any]]) -> None:
    """Far above what is asked for: the defaults stop at 1,024 connections and requests."""
    limits = ("max_connections", "max_pending_requests", "max_requests")
    for cluster in clusters:
        cluster["circuit_breakers"] = {"thresholds": [dict.fromkeys(limits, 100_000)]}
