"""What a service is: names, virtual addresses, ports, and how endpoints are chosen."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

import msgspec

from ambient.api.address import NetworkAddress


class AppProtocol(IntEnum):
    """Wire numbers of istio.workload.AppProtocol."""

    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5


class IPFamilies(IntEnum):
    """Wire numbers of istio.workload.IPFamilies."""

    AUTOMATIC = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2
    DUAL = 3


class Scope(IntEnum):
    """Wire numbers of istio.workload.LoadBalancing.Scope."""

    UNSPECIFIED_SCOPE = 0
    REGION = 1
    ZONE = 2
    SUBZONE = 3
    NODE = 4
    CLUSTER = 5
    NETWORK = 6


class Mode(IntEnum):
    """Wire numbers of istio.workload.LoadBalancing.Mode."""

    UNSPECIFIED_MODE = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


class HealthPolicy(IntEnum):
    """Wire numbers of istio.workload.LoadBalancing.HealthPolicy."""

    ONLY_HEALTHY = 0
    ALLOW_ALL = 1


class Visibility(IntEnum):
    """Wire numbers of istio.workload.Service.Visibility."""

    PUBLIC = 0
    NAMESPACE = 1


class LoadBalancing(msgspec.Struct, frozen=True):
    """How one of a service's endpoints is preferred; the default has no preference."""

    routing_preference: tuple[Scope, ...] = ()
    mode: Mode = Mode.UNSPECIFIED_MODE
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


class NamespacedHostname(NamedTuple):
    """The key of a service; its text form ``namespace/hostname`` is the xDS resource name."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"

    @classmethod
    def parse(cls, text: str) -> NamespacedHostname:
        """Read ``namespace/hostname``. Raises ValueError for any other form."""
        namespace, slash, hostname = text.partition("/")
        if not slash or not namespace or not hostname or "/" in hostname:
            raise ValueError(f"{text!r} is not namespace/hostname")
        return cls(namespace, hostname)


class Port(msgspec.Struct, frozen=True):
    """A service port; ``target_port`` 0 means that each workload has its own number."""

    service_port: int
    target_port: int = 0
    app_protocol: AppProtocol = AppProtocol.UNKNOWN


class AddressRange(msgspec.Struct, frozen=True):
    """A range of virtual addresses in a network."""

    network: str
    cidr: IPv4Network | IPv6Network


class GatewayAddress(msgspec.Struct, frozen=True):
    """Where a waypoint or a network gateway is reached."""

    destination: NamespacedHostname | NetworkAddress
    hbone_mtls_port: int = 15008


class WeightedWaypoint(msgspec.Struct, frozen=True):
    """One of several waypoints that share a service's traffic."""

    destination: GatewayAddress
    weight: int


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes Service or one host of a ServiceEntry (istio.workload.Service)."""

    name: str
    namespace: str
    hostname: str
    addresses: tuple[NetworkAddress, ...] = ()
    ranges: tuple[AddressRange, ...] = ()
    ports: tuple[Port, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    load_balancing: LoadBalancing = LoadBalancing()
    ip_families: IPFamilies = IPFamilies.AUTOMATIC
    canonical: bool = False
    ingress_use_waypoint: bool = False
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    visibility: Visibility = Visibility.PUBLIC

    def __hash__(self) -> int:
        """So that what follows from a service can be remembered (``lru_cache``)."""
        return hash(self.hostname)

    @property
    def key(self) -> NamespacedHostname:
        """The service's name in look-ups and in xDS."""
        return NamespacedHostname(self.namespace, self.hostname)
