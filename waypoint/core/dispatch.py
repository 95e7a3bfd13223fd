"""Whom a CONNECT is for, and whether this waypoint serves it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from ambient.api.address import HostPort, NetworkAddress, parse_authority
from ambient.api.service import AppProtocol, GatewayAddress, NamespacedHostname, Service
from ambient.api.workload import Workload
from ambient.hbone.core.frames import PREFACE
from waypoint.core.directory import Directory
from waypoint.core.place import Place


class Protocol(Enum):
    """What a destination speaks inside the tunnel. SNIFF: its first bytes tell.

    HTTP: of whichever version the first bytes are, and nothing else.
    """

    HTTP = "http"
    HTTP1 = "http/1.1"
    HTTP2 = "http/2"
    TCP = "tcp"
    SNIFF = "sniff"


class Self(NamedTuple):
    """The waypoint's own names and addresses, which other objects refer to."""

    place: Place
    addresses: frozenset[NetworkAddress]


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """What a client called: exactly one of ``service`` and ``workload`` is set.

    ``address`` is the virtual address (or hostname) and service port, or the pod's.
    """

    address: HostPort
    protocol: Protocol
    service: Service | None = None
    workload: Workload | None = None

    @property
    def key(self) -> NamespacedHostname:
        """The name of what was called."""
        if self.service is not None:
            return self.service.key
        assert self.workload is not None
        return NamespacedHostname(self.workload.namespace, self.workload.name)


class Refusal(NamedTuple):
    """A CONNECT that is not for us; ``status`` goes to the client, the reason also to the log."""

    status: int
    reason: str


def dispatch(
    authority: str, directory: Directory, own: Self, network: str
) -> Destination | Refusal:
    """Read a CONNECT's authority: VIP:port, podIP:port or hostname:port."""
    try:
        address = parse_authority(authority)
    except ValueError as bad:
        return Refusal(400, str(bad))
    ip = address.ip
    if ip is None:
        service = directory.service_by_hostname(address.host, own.place.namespace)
        if service is None:
            return Refusal(404, f"no service has the name {address.host}")
        return _service(service, address, directory, own)
    at = NetworkAddress(network, ip)
    service = directory.service_by_address(at)
    if service is not None:
        return _service(service, address, directory, own)
    workload = directory.workload_by_address(at)
    if workload is None:
        return Refusal(404, f"no service or workload has the address {ip}")
    if not bound(workload.waypoint, directory, own):
        name = f"{workload.namespace}/{workload.name}"
        return Refusal(404, f"workload {name} does not use waypoint {_name(own)}")
    return Destination(address=address, protocol=Protocol.SNIFF, workload=workload)


def _service(
    service: Service, address: HostPort, directory: Directory, own: Self
) -> Destination | Refusal:
    waypoints = [service.waypoint, *(w.destination for w in service.weighted_waypoints)]
    if not any(bound(waypoint, directory, own) for waypoint in waypoints):
        return Refusal(404, f"service {service.key} does not use waypoint {_name(own)}")
    port = next((p for p in service.ports if p.service_port == address.port), None)
    if port is None:
        return Refusal(404, f"service {service.key} has no port {address.port}")
    return Destination(address=address, protocol=_protocol(port.app_protocol), service=service)


def bound(waypoint: GatewayAddress | None, directory: Directory, own: Self) -> bool:
    """Does a reference to a waypoint mean this one?"""
    if waypoint is None:
        return False
    target = waypoint.destination
    if isinstance(target, NamespacedHostname):
        return target == (own.place.namespace, own.place.hostname)
    if target in own.addresses:
        return True
    service = directory.service_by_address(target)
    return service is not None and service.key == (own.place.namespace, own.place.hostname)


def _name(own: Self) -> str:
    return f"{own.place.namespace}/{own.place.gateway}"


def _protocol(declared: AppProtocol) -> Protocol:
    match declared:
        case AppProtocol.HTTP11 | AppProtocol.HTTP2 | AppProtocol.GRPC:
            return Protocol.HTTP
        case AppProtocol.UNKNOWN:
            return Protocol.SNIFF
        case _:
            return Protocol.TCP


METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH CONNECT PURGE PROPFIND REPORT MKCOL".split()
)
"""Methods that make first bytes look like HTTP."""
LONGEST_REQUEST_LINE = 8192
"""Bytes to read before a first line without an end is taken for something else."""


def sniff(first: bytes) -> Protocol | None:
    """HTTP/1.1, HTTP/2 or something else, from a connection's first bytes; None asks for more.

    HTTP/1.0 counts as something else.
    """
    if first[: len(PREFACE)] == PREFACE[: len(first)]:
        return Protocol.HTTP2 if len(first) >= len(PREFACE) else None
    method, space, rest = first.partition(b" ")
    if not space:
        return None if any(known.startswith(method) for known in METHODS) else Protocol.TCP
    if method not in METHODS:
        return Protocol.TCP
    line, end, _ = rest.partition(b"\r\n")
    if not end:
        return None if len(first) < LONGEST_REQUEST_LINE else Protocol.TCP
    return Protocol.HTTP1 if line.endswith(b" HTTP/1.1") else Protocol.TCP
