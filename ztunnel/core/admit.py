"""Whether an inbound connection may reach its pod, and on which port: two pure functions."""

from __future__ import annotations

import msgspec

from ambient.api.address import HostPort, IPAddress, NetworkAddress, parse_authority, parse_ip
from ambient.api.ports import ILLEGAL_DESTINATIONS
from ambient.api.service import Service
from ambient.api.spiffe import Identity
from ambient.api.workload import ApplicationTunnelProtocol, Workload
from ambient.policy.core.decide import Connection, Verdict, decide
from ambient.state.core.mesh import MeshState
from ztunnel.core.balance import target_port
from ztunnel.core.route import find_gateway, waypoints_of

BAD_REQUEST = 400
DENIED = 401
UNAVAILABLE = 503
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """The connection may go on to ``upstream``; required by everything that dials."""

    upstream: HostPort
    connection: Connection
    """What the policies judged; judged again whenever they change."""
    verdict: Verdict
    service: Service | None = None
    """The service that the client most likely asked for; telemetry only."""
    keep_source: bool = True
    """Dial as the client, so that the application sees its address."""
    proxied: HostPort | None = None
    """The application wants a PROXY header: what the client asked for, which the header names."""


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """The connection ends here with ``status`` (HBONE) or without a byte (plaintext)."""

    status: int
    reason: str
    verdict: Verdict | None = None
    """Set where a policy decided."""
    service: Service | None = None
    """As in a permit."""
    connection: Connection | None = None
    """What that policy judged."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The other end of an HBONE connection: what it has proven, and what it asks for."""

    identity: Identity | None
    ip: IPAddress
    authority: str
    forwarded_host: str = ""
    """``host=`` of the Forwarded header; a hint for telemetry, never trusted."""


def admit_connect(
    state: MeshState,
    workload: Workload,
    caller: Caller,
    local: HostPort,
    *,
    localhost_tunnel: bool = True,
) -> Permit | Denial:
    """Decide a CONNECT that reached ``workload`` on its address ``local`` (port 15008).

    ``localhost_tunnel``: applications that want PROXY headers are reached by localhost.
    """
    try:
        authority = parse_authority(caller.authority)
    except ValueError as error:
        return Denial(status=BAD_REQUEST, reason=str(error))
    if caller.identity is None or caller.identity.trust_domain != workload.trust_domain:
        reason = f"peer {caller.identity} is not of trust domain {workload.trust_domain}"
        return Denial(status=DENIED, reason=reason)
    mismatch = _check_authority(state, workload, authority, local)
    if mismatch:
        return Denial(status=BAD_REQUEST, reason=mismatch)
    service: Service | None = None
    port = authority.port
    if authority.ip is None:
        service = state.service_by_hostname(authority.host, workload.namespace)
        if service is None:
            return Denial(status=UNAVAILABLE, reason=f"unknown service {authority.host}")
        ports = workload.services.get(service.key, ())
        port = target_port(service, workload, ports, authority.port)
        if not port:
            reason = f"requested service {authority} found, but cannot resolve port"
            return Denial(status=UNAVAILABLE, reason=reason)
    if port in ILLEGAL_DESTINATIONS:
        return Denial(status=UNAVAILABLE, reason="attempted recursive call to ourselves")
    tunnel = workload.application_tunnel
    if tunnel is not None and tunnel.port:
        port = tunnel.port
    upstream = HostPort(local.host, port)
    service = service or guess_service(state, workload, port, caller.forwarded_host)
    decided = _judge(state, workload, caller.identity, caller.ip, upstream, service)
    if isinstance(decided, Denial) or tunnel is None:
        return decided
    if tunnel.protocol is not ApplicationTunnelProtocol.PROXY:
        return decided
    return _through_application_tunnel(decided, workload, authority, localhost_tunnel)


def _through_application_tunnel(
    permit: Permit, workload: Workload, authority: HostPort, localhost: bool
) -> Permit | Denial:
    """The header takes the place of the client's address, so nothing has to be pretended."""
    asked = authority
    if authority.ip is None:
        vip = _virtual_address(permit.service, workload.network)
        if vip is None:
            reason = f"service {authority.host} has no address that a PROXY header could name"
            return Denial(status=UNAVAILABLE, reason=reason, service=permit.service)
        asked = HostPort(str(vip), authority.port)
    permit = msgspec.structs.replace(permit, proxied=asked)
    if not localhost:
        return permit
    loopback = _LOOPBACK[permit.connection.destination_ip.version]
    upstream = HostPort(loopback, permit.upstream.port)
    return msgspec.structs.replace(permit, upstream=upstream, keep_source=False)


def _virtual_address(service: Service | None, network: str) -> IPAddress | None:
    """The best known address of a service: of our network, and IPv4 before IPv6."""
    known = sorted(
        service.addresses if service else (), key=lambda at: (at.network != network, at.ip.version)
    )
    return known[0].ip if known else None


def admit_plaintext(
    state: MeshState, workload: Workload, peer: IPAddress, original: HostPort
) -> Permit | Denial:
    """Decide a captured connection without a tunnel: nobody has proven who is calling."""
    if original.port in ILLEGAL_DESTINATIONS:
        return Denial(status=UNAVAILABLE, reason="attempted recursive call to ourselves")
    service = guess_service(state, workload, original.port, "")
    return _judge(state, workload, None, peer, original, service)


def judge_again(state: MeshState, workload: Workload, connection: Connection) -> Verdict:
    """The verdict on a live connection under the present policies."""
    return decide(state.policies_for(workload), connection)


def guess_service(state: MeshState, workload: Workload, port: int, host: str) -> Service | None:
    """The service by which the client came: the one it names, else the first with that port."""
    services = [found for key in workload.services if (found := state.service(key))]
    for service in services:
        if host and service.hostname == host:
            return service
    for service in services:
        ports = (*workload.services[service.key], *service.ports)
        if any(one.target_port == port for one in ports):
            return service
    return None


def _judge(
    state: MeshState,
    workload: Workload,
    identity: Identity | None,
    source: IPAddress,
    upstream: HostPort,
    service: Service | None,
) -> Permit | Denial:
    destination = parse_ip(upstream.host)
    if destination is None:
        return Denial(status=BAD_REQUEST, reason=f"{upstream} is not an address")
    connection = Connection(identity, source, destination, upstream.port)
    verdict = decide(state.policies_for(workload), connection)
    if not verdict.allowed:
        return Denial(
            status=DENIED,
            reason=verdict.reason,
            verdict=verdict,
            service=service,
            connection=connection,
        )
    return Permit(upstream=upstream, connection=connection, verdict=verdict, service=service)


def _check_authority(
    state: MeshState, workload: Workload, authority: HostPort, local: HostPort
) -> str:
    """Empty where the authority may be asked for at this address, else what is wrong."""
    asked = authority.ip
    if asked is None or str(asked) == local.host or workload.application_tunnel is not None:
        return ""
    # A waypoint is asked for the addresses of the services and workloads that it fronts.
    target = NetworkAddress(workload.network, asked)
    service = state.service_by_address(target, workload.namespace)
    fronted = service or state.workload_by_address(target)
    for at in waypoints_of(fronted):
        owner, waypoint = find_gateway(state, at)
        if owner is not None and owner.key in workload.services:
            return ""
        if waypoint is not None and waypoint.uid == workload.uid:
            return ""
    return f"ip mismatch: {asked} != {local.host}"
