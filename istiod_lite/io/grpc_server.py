"""The gRPC listeners: 15012 with TLS for xDS and certificates, 15010 in plain text for xDS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from istiod_lite.io.ca_server import CaService
from istiod_lite.io.serving import Keypair, ServingCertificate
from istiod_lite.io.unreadable import readable
from istiod_lite.io.xds_server import XdsService
from istiod_lite.settings import Settings

DISCOVERY_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
MAX_RECEIVE_BYTES: Final = 4 << 20
"""Istio: ISTIO_GPRC_MAXRECVMSGSIZE."""
STOP_GRACE_S: Final = 1.0
STOP_LIMIT_S: Final = 5.0
"""gRPC has been seen to wait for ever for calls that were over; nobody waits for it so long."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Node tunnels ping every 30 s; Istio allows every 15 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two processes on one port would each see half of the connections.
    ("grpc.so_reuseport", 0),
)


class GrpcCertificate:
    """Hands it to gRPC, which asks at every handshake."""

    def __init__(self, serving: ServingCertificate) -> None:
        self._serving = serving
        self._lock = threading.Lock()
        self._pair: Keypair | None = None

    def renewed(self) -> Any:
        """A certificate configuration if a new one is due, else None; from gRPC's threads."""
        with self._lock:
            if self._pair is not None and self._serving.is_current(self._pair):
                return None
            self._pair = pair = self._serving.made()
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])

    def credentials(self) -> grpc.ServerCredentials:
        """For a listener. Clients prove themselves by token, not by certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self.renewed(), self.renewed, require_client_authentication=False
        )


class GrpcServer:
    """Both ports; ``ports`` tells which ones were really bound."""

    def __init__(
        self, settings: Settings, xds: XdsService, ca: CaService, serving: ServingCertificate
    ) -> None:
        """Binds the ports. Raises MeshError that names a port which is taken."""
        # A stream holds one of these threads; the rest is for certificates.
        self._pool = ThreadPoolExecutor(settings.max_streams + 32, "grpc")
        self._server = grpc.server(self._pool, options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_discovery(xds),))
        ca.add_to(self._server)
        host = settings.bind_address
        credentials = GrpcCertificate(serving).credentials()
        self.ports = (
            _bind(
                lambda at: self._server.add_secure_port(at, credentials),
                HostPort(host, settings.xds_port),
                "XDS_PORT",
            ),
            _bind(
                self._server.add_insecure_port,
                HostPort(host, settings.xds_plaintext_port),
                "XDS_PLAINTEXT_PORT",
            ),
        )

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """End; waits for the threads, so call it from one of its own."""
        ended = self._server.stop(STOP_GRACE_S).wait(STOP_LIMIT_S)
        self._pool.shutdown(wait=ended)


def _discovery(xds: XdsService) -> grpc.GenericRpcHandler[Any, Any]:
    """The service as its generated code would add it, but what cannot be read reaches the servicer:
    gRPC ends such a call without saying whose it was, and may then never finish it.
    """
    handlers = {
        name: grpc.stream_stream_rpc_method_handler(
            method,
            request_deserializer=readable(message),
            response_serializer=answer.SerializeToString,
        )
        for name, method, message, answer in (
            (
                "StreamAggregatedResources",
                xds.StreamAggregatedResources,
                pb.DiscoveryRequest,
                pb.DiscoveryResponse,
            ),
            (
                "DeltaAggregatedResources",
                xds.DeltaAggregatedResources,
                pb.DeltaDiscoveryRequest,
                pb.DeltaDiscoveryResponse,
            ),
        )
    }
    return grpc.method_handlers_generic_handler(DISCOVERY_SERVICE, handlers)


def _bind(add: Callable[[str], int], at: HostPort, setting: str) -> int:
    try:
        port = add(str(at))
    except RuntimeError:
        port = 0
    if not port:
        raise MeshError(
            f"cannot listen on {at}", hint=f"another process has the port; set {setting}"
        )
    return port
