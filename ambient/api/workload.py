"""What a workload is: where it runs, who it is, and how peers reach it."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from ambient.api.address import IPAddress
from ambient.api.service import GatewayAddress, NamespacedHostname, Port
from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN, Identity


class TunnelProtocol(IntEnum):
    """Wire numbers of istio.workload.TunnelProtocol."""

    NONE = 0
    HBONE = 1
    LEGACY_ISTIO_MTLS = 2


class WorkloadStatus(IntEnum):
    """Wire numbers of istio.workload.WorkloadStatus."""

    HEALTHY = 0
    UNHEALTHY = 1


class WorkloadType(IntEnum):
    """Wire numbers of istio.workload.WorkloadType."""

    DEPLOYMENT = 0
    CRONJOB = 1
    POD = 2
    JOB = 3


class NetworkMode(IntEnum):
    """Wire numbers of istio.workload.NetworkMode."""

    STANDARD = 0
    HOST_NETWORK = 1


class ApplicationTunnelProtocol(IntEnum):
    """Wire numbers of istio.workload.ApplicationTunnel.Protocol."""

    NONE = 0
    PROXY = 1


class ApplicationTunnel(msgspec.Struct, frozen=True):
    """The workload wants a PROXY header instead of HBONE; port 0 keeps the original port."""

    protocol: ApplicationTunnelProtocol
    port: int = 0


class Locality(msgspec.Struct, frozen=True):
    """Where the workload's node stands; empty parts are unknown."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, a WorkloadEntry, or an address behind a service (istio.workload.Workload)."""

    uid: str
    name: str
    namespace: str
    addresses: tuple[IPAddress, ...] = ()
    network: str = ""
    hostname: str = ""
    tunnel_protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = "default"
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.POD
    workload_name: str = ""
    native_tunnel: bool = False
    authorization_policies: tuple[str, ...] = ()
    status: WorkloadStatus = WorkloadStatus.HEALTHY
    cluster_id: str = ""
    services: dict[NamespacedHostname, tuple[Port, ...]] = {}
    application_tunnel: ApplicationTunnel | None = None
    locality: Locality = Locality()
    network_mode: NetworkMode = NetworkMode.STANDARD
    capacity: int = 1
    labels: dict[str, str] = {}
    """Pod labels; only told to waypoints (extension ``ambient.labels``), empty elsewhere."""

    def __hash__(self) -> int:
        """So that what follows from a workload can be remembered (``lru_cache``)."""
        return hash(self.uid)

    @property
    def identity(self) -> Identity:
        """The SPIFFE identity that the workload's certificate carries."""
        return Identity(self.trust_domain, self.namespace, self.service_account)
