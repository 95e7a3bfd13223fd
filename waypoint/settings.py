"""Every knob of the waypoint. A field ``xds_address`` is the variable ``XDS_ADDRESS``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from ambient.api.ports import ADMIN_PORT, HBONE_PORT, READINESS_PORT, STATS_PORT
from ambient.api.spiffe import Identity
from waypoint.core.place import Place

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]


class Settings(Struct, frozen=True, kw_only=True):
    """One value per process, read once at its start."""

    pod_name: str
    pod_namespace: str
    instance_ip: str
    node_name: str = ""
    service_account: str = "default"
    gateway_name: str = ""
    """The Gateway object that this waypoint serves; empty: named as the service account."""

    xds_address: str = "https://istiod.istio-system.svc:15012"
    ca_address: str = "https://istiod.istio-system.svc:15012"
    xds_root_ca: str = "/var/run/secrets/istio/root-cert.pem"
    ca_root_ca: str = ""
    """Empty: the same file as for xDS."""
    alt_xds_hostname: str = ""
    alt_ca_hostname: str = ""
    auth_token: str = "/var/run/secrets/tokens/istio-token"
    """File with our service account's token."""
    cluster_id: str = "Kubernetes"
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"
    """DNS suffix of service names."""
    root_namespace: str = "istio-system"
    """Policies for all waypoints live there."""
    network: str = ""
    secret_ttl_s: Seconds = field(default=86400.0, name="SECRET_TTL")

    connect_timeout_s: Seconds = field(default=10.0, name="CONNECT_TIMEOUT")
    """For one try at one endpoint (Istio: connectTimeout)."""
    sniff_timeout_s: Seconds = field(default=5.0, name="PROTOCOL_DETECTION_TIMEOUT")
    """A client that says nothing for so long is waiting for the server to speak first."""
    drain_s: Seconds = field(default=20.0, name="TERMINATION_DRAIN_DURATION")
    """How long requests under way may take after SIGTERM; keep it below the pod's grace period."""
    min_drain_s: Annotated[float, Meta(ge=0)] = field(default=5.0, name="MINIMUM_DRAIN_DURATION")
    """Serve at least so long after SIGTERM, while clients learn that we leave (Istio: 5 s)."""

    workers: str = field(default="auto", name="WAYPOINT_WORKERS")
    """Processes: a number, 0 for one a core, 50%, or auto: one for each CPU of the container's
    limit, one where it has none."""
    max_request_headers_kb: Annotated[int, Meta(ge=1, le=8192)] = 60
    """Largest head of a request or response, in KiB (Envoy's name, range and default)."""
    max_headers_count: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Most fields of a head or of trailers (Envoy)."""
    per_connection_buffer_limit_bytes: Annotated[int, Meta(ge=0)] = 1 << 20
    """Longest body of a request that a retry can send again (Envoy)."""
    jwks_refresh_s: Seconds = field(default=1200.0, name="JWKS_REFRESH_INTERVAL")
    """How old keys of token issuers may become (Istio: 20 minutes)."""
    jwks_extra_root_ca: str = ""
    """File with CA certificates that are believed beside the system's when keys are fetched."""
    xfcc_include_client_identity: bool = False
    """Tell applications the client's identity in X-Forwarded-Client-Cert (the Gateway's annotation
    ``ambient.istio.io/xfcc-include-client-identity``)."""
    hbone_port: Port = HBONE_PORT
    admin_port: Port = ADMIN_PORT
    """On localhost."""
    stats_port: Port = STATS_PORT
    readiness_port: Port = READINESS_PORT

    @property
    def identity(self) -> Identity:
        """Who this waypoint is."""
        return Identity(self.trust_domain, self.pod_namespace, self.service_account)

    @property
    def place(self) -> Place:
        """Where this waypoint stands."""
        return Place(
            namespace=self.pod_namespace,
            gateway=self.gateway_name or self.service_account,
            service_account=self.service_account,
            domain=self.cluster_domain,
            trust_domain=self.trust_domain,
            root_namespace=self.root_namespace,
        )
