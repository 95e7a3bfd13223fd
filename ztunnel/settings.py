"""Every knob of ztunnel; names, defaults and meaning are Istio's where it has the knob too.

The field ``xds_address`` is the variable ``XDS_ADDRESS``; a field that ends in ``_s`` is read from
the name it gives, as ``5s``, ``500ms`` or ``1m30s``. ``LOG_LEVEL`` and ``LOG_FORMAT`` belong to
``ambient.cli.run``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ambient.api.ports import (
    ADMIN_PORT,
    ILLEGAL_DESTINATIONS,
    PROXY_MARK,
    READINESS_PORT,
    SOCKS_PORT,
    STATS_PORT,
)
from ambient.net.io.bpf_flows import FOLDER

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]


class Settings(Struct, frozen=True, kw_only=True):
    """One value per process, read once at its start."""

    network: str = ""
    """The network that this node is in."""
    node_name: str = ""
    cluster_id: str = "Kubernetes"
    pod_name: str = "ztunnel"
    pod_namespace: str = "istio-system"
    service_account: str = ""
    """Our own pod's. Where it is known, our own pod is in the mesh, too: port 15008 of our own
    network namespace leads to its ports, above all to 15020."""
    instance_ip: str = "1.1.1.1"
    """Our own address in the xDS node id; this default is what Istio says where it knows none."""

    xds_address: str = "https://istiod.istio-system.svc:15012"
    """The control plane; empty: none, and the mesh state stays empty."""
    ca_address: str = "https://istiod.istio-system.svc:15012"
    xds_root_ca: str = "/var/run/secrets/istio/root-cert.pem"
    ca_root_ca: str = "/var/run/secrets/istio/root-cert.pem"
    alt_xds_hostname: str = ""
    """One more name that the control plane's certificate may carry."""
    alt_ca_hostname: str = ""
    auth_token: str = "/var/run/secrets/tokens/istio-token"
    """File with our service account's token."""
    xds_headers: dict[str, str] = field(default={}, name="XDS_HEADER_*")
    """``XDS_HEADER_foo=bar`` sends the metadata ``foo: bar`` to the control plane."""
    ca_headers: dict[str, str] = field(default={}, name="CA_HEADER_*")
    xds_on_demand: bool = False
    """Ask the control plane only for what connections need; our node's own pods come unasked."""
    crl_path: str = ""
    """File with certificate revocation lists; read again when it changes."""
    secret_ttl_s: Seconds = field(default=86400.0, name="SECRET_TTL")
    """Life of the workload certificates that we ask for."""

    mesh_config: str = "/etc/istio/config/mesh"
    """File with the mesh configuration, of which ``outboundTrafficPolicy`` counts here; read again
    when it changes. Without the file pods may reach everything."""

    local_xds_path: str = ""
    """File with mesh state; read again when it changes. Other state comes from ``xds_address``."""
    local_xds: str = ""
    """The same as a text."""
    local_cert_dir: str = ""
    """Folder with certificates, instead of a CA: ``<namespace>/<service account>/*.pem``."""

    proxy_mode: Literal["shared", "dedicated"] = "shared"
    """Shared: for the pods that the node agent names. Dedicated: for one workload, with listeners
    in our own network namespace, as ourselves, and without a node agent."""
    proxy_workload_info: str = ""
    """Dedicated: ``namespace/name/service account`` of the workload."""

    inpod_uds: str = "/var/run/ztunnel/ztunnel.sock"
    """The node agent's socket."""
    inpod_port_reuse: bool = True
    """Listen beside a second tunnel, which an upgrade needs."""
    packet_mark: Annotated[int, Meta(gt=0)] | None = None
    """Unset: 1337 in shared mode, none in dedicated mode."""
    enable_orig_src: bool | None = None
    """Keep the client's address on the last hop. Unset: as far as the kernel allows; true: a
    kernel that does not allow it is an error; false: never."""

    unstable_enable_socks5: bool = False
    """Serve SOCKS5 on port 15080 of every pod's localhost."""
    localhost_app_tunnel: bool = True
    """Reach an application that asks for PROXY headers by localhost, not by its pod's address."""

    ipv6_enabled: bool = True
    """False: no DNS on a pod's ::1, and no IPv6 addresses in its answers."""
    dns_capture: bool = True
    """Answer DNS on port 15053 of every pod; whether a pod's queries get there, rules decide."""
    istio_meta_dns_capture: bool | None = None
    """The same under the name that Istio's charts set; it wins."""
    cluster_domain: str = "cluster.local"
    """The cluster's DNS domain."""
    prefered_service_namespace: str = ""
    """Whose service a host name means that several foreign namespaces have (spelled as Istio's)."""

    pool_max_streams_per_connection: Annotated[int, Meta(ge=1)] = 100
    pool_unused_release_timeout_s: Seconds = field(
        default=300.0, name="POOL_UNUSED_RELEASE_TIMEOUT"
    )

    connection_termination_deadline_s: Seconds | None = field(
        default=None, name="CONNECTION_TERMINATION_DEADLINE"
    )
    """How long open connections live after SIGTERM, and after their pod has left the mesh."""
    termination_grace_period_seconds: Annotated[int, Meta(ge=1)] | None = None
    """Our own pod's grace period; gives the deadline where that is unset."""

    keepalive_enabled: bool = True
    keepalive_time_s: Seconds = field(default=180.0, name="KEEPALIVE_TIME")
    keepalive_interval_s: Seconds = field(default=180.0, name="KEEPALIVE_INTERVAL")
    keepalive_retries: Annotated[int, Meta(ge=1)] = 9
    enable_response_baggage: bool = True
    """Tell the client's side in the CONNECT response who answers."""

    worker_threads: str = field(default="1", name="ZTUNNEL_WORKER_THREADS")
    """How many processes share this node's pods: a number, 0 for one a core, or 50% of the cores.
    Istio's counts threads and is 2 or more by default."""

    bpf_dir: str = FOLDER
    """Where the node agent keeps what its eBPF redirection makes; absent where there is none."""

    admin_port: Port = ADMIN_PORT
    """On localhost."""
    stats_port: Port = STATS_PORT
    readiness_port: Port = READINESS_PORT

    @property
    def dedicated(self) -> bool:
        """Whether we serve one workload only, as itself."""
        return self.proxy_mode == "dedicated"

    @property
    def mark(self) -> int | None:
        """What marks our packets for the rules that redirect."""
        default = None if self.dedicated else PROXY_MARK
        return default if self.packet_mark is None else self.packet_mark

    @property
    def dns_proxy(self) -> bool:
        """Whether pods get a DNS proxy."""
        wanted = self.istio_meta_dns_capture
        return self.dns_capture if wanted is None else wanted

    @property
    def own_ports(self) -> frozenset[int]:
        """Ports that would lead a connection back to ourselves."""
        return ILLEGAL_DESTINATIONS | ({SOCKS_PORT} if self.unstable_enable_socks5 else set())

    @property
    def drain_s(self) -> float:
        """Seconds that open connections get at the end (Istio's rule for the grace period)."""
        if self.connection_termination_deadline_s is not None:
            return self.connection_termination_deadline_s
        grace = self.termination_grace_period_seconds
        if grace is None:
            return 5.0
        return max(1.0, grace - 5.0 if grace > 10 else grace - 1.0)
