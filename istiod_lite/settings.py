"""Every knob of the control plane; the environment variable is the field's name in capitals."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ambient.api.ports import (
    CONTROL_HTTP_PORT,
    CONTROL_METRICS_PORT,
    WEBHOOK_PORT,
    XDS_PLAINTEXT_PORT,
    XDS_PORT,
)
from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN

PortNumber = Annotated[int, Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Names as Istio's where Istio has the setting; ports of 0 choose a free one."""

    pod_name: str = "istiod-lite"
    """Who we are in leader elections."""
    pod_namespace: str = "istio-system"
    """The system namespace: of our Service, our Secret and mesh-wide policies."""
    cluster_id: str = "Kubernetes"
    """First part of every workload's uid; changing it renames them all."""
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster_domain: str = "cluster.local"
    network: str = ""
    token_audiences: str = "istio-ca"
    """The audience that callers' tokens must be for."""
    ca_trusted_node_accounts: frozenset[str] = frozenset()
    """``namespace/account`` of those who may ask for identities of pods on their node; unset means
    the account of the ztunnel DaemonSet in our namespace."""
    revision: str = "default"
    """Objects with another ``istio.io/rev`` are another control plane's."""
    root_ca_dir: str = "/etc/cacerts"
    """A folder with a plugged-in CA (the mounted Secret cacerts); may be absent."""
    istio_multiroot_mesh: bool = False
    """Whether a plugged-in CA may change its roots while the mesh runs, in overlapping steps."""
    default_workload_cert_ttl_s: Annotated[float, Meta(ge=60)] = 24 * 3600.0
    max_workload_cert_ttl_s: Annotated[float, Meta(ge=60)] = 90 * 24 * 3600.0
    """Longer requests are refused; also how long two self-signed roots overlap in a rotation."""
    citadel_self_signed_ca_cert_ttl_s: Annotated[float, Meta(ge=60)] = 3650 * 24 * 3600.0
    citadel_self_signed_root_cert_grace_period_percentile: Annotated[int, Meta(ge=1, le=90)] = 20
    """Rotation begins when less than this share of the root's life is left, in percent."""
    istiod_custom_host: tuple[str, ...] = ()
    """More names for our serving certificate."""
    bind_address: str = "0.0.0.0"
    http_port: PortNumber = CONTROL_HTTP_PORT
    monitoring_port: PortNumber = CONTROL_METRICS_PORT
    xds_port: PortNumber = XDS_PORT
    xds_plaintext_port: PortNumber = XDS_PLAINTEXT_PORT
    pilot_debounce_after_s: Annotated[float, Meta(ge=0)] = 0.1
    """Quiet time after a change before proxies are told (Istio: PILOT_DEBOUNCE_AFTER)."""
    pilot_debounce_max_s: Annotated[float, Meta(gt=0)] = 10.0
    """The longest that changes may wait while more keep coming."""
    max_streams: Annotated[int, Meta(gt=0)] = 1000
    """xDS streams; each holds two threads."""
    max_streams_per_client: Annotated[int, Meta(gt=0)] = 16
    """Of one pod (or address, in plain text): one client cannot keep others out."""
    https_port: PortNumber = WEBHOOK_PORT
    """The validating webhook."""
    waypoint_image: str = "ambient-mesh/waypoint:latest"
    waypoint_image_pull_secrets: tuple[str, ...] = ()
    """Secrets for the image's registry, in each waypoint's namespace."""
    waypoint_command: tuple[str, ...] = ("waypoint",)
    waypoint_replicas: Annotated[int, Meta(ge=1)] = 2
    """Pods of a waypoint, unless its parameters say otherwise: one that restarts is not missed."""
    waypoint_max_replicas: Annotated[int, Meta(ge=0)] = 0
    """Above WAYPOINT_REPLICAS: an autoscaler may go up to it."""
    waypoint_fail_closed: bool = False
    """What asks for a waypoint that is missing or refuses it is unreachable, not unprotected."""
    pilot_auto_allow_waypoint_policy: bool = True
    """Waypoints are admitted where L4 ALLOW policies would refuse them."""
    ingress_use_waypoint: bool = True
    """Ingress gateways use the waypoint of a service whose labels do not say."""
    ambient_enable_dry_run_authorization_policy: bool = True
    """Tunnels are told dry-run policies; those that do not know the flag would enforce them."""
    ambient_enable_status: bool = True
    """Conditions are written to Services, ServiceEntries, WorkloadEntries, policies and routes."""
    pilot_enable_ip_autoallocate: bool = True
    """Hosts of ServiceEntries without addresses get virtual ones."""
    pilot_enable_serviceentry_select_pods: bool = True
    pilot_enable_k8s_select_workload_entries: bool = True
    pilot_remote_cluster_timeout_s: Annotated[float, Meta(ge=0)] = 30.0
    """How long a start waits for other clusters before it goes on without them."""
    xds_address: str = ""
    """Where waypoints find us; empty: ``istiod[-<revision>].<system namespace>.svc:15012``."""
    lease_s: Annotated[float, Meta(ge=3)] = 15.0
    """How long a writer that vanished keeps others from writing."""

    @property
    def lease_name(self) -> str:
        """Each revision has a writer of its own."""
        suffix = "" if self.revision == "default" else f"-{self.revision}"
        return f"istiod-lite-writer{suffix}"

    @property
    def discovery_address(self) -> str:
        """``host:port`` for the waypoints that we start: this revision's."""
        service = "istiod" if self.revision == "default" else f"istiod-{self.revision}"
        return self.xds_address or f"{service}.{self.pod_namespace}.svc:{XDS_PORT}"

    @property
    def serving_names(self) -> list[str]:
        """DNS names of our certificate (istio pilot/pkg/bootstrap/certcontroller.go)."""
        namespace = self.pod_namespace
        services = ("istiod", "istiod-remote", "istio-pilot")
        full = f"istiod.{namespace}.svc.{self.cluster_domain}"
        names = {f"{service}.{namespace}.svc" for service in services}
        if self.revision != "default":
            names.add(f"istiod-{self.revision}.{namespace}.svc")
        return sorted({*names, full, *self.istiod_custom_host})
