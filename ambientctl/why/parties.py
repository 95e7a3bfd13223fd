"""Who calls whom: reading SRC and DST[:PORT] as people write them."""

from __future__ import annotations

from typing import NamedTuple

from ambient.api.address import HostPort, IPAddress, NetworkAddress, parse_ip
from ambient.api.errors import UsageError
from ambient.api.service import Service
from ambient.api.spiffe import SCHEME, Identity
from ambient.api.workload import NetworkMode, TunnelProtocol, Workload
from ambientctl.pod_names import near, place, without_kind
from ambientctl.why.mesh import Mesh


class Source(NamedTuple):
    """The caller; ``workload`` is made up where the caller named an identity without pods."""

    label: str
    workload: Workload
    hypothetical: bool = False

    @property
    def captured(self) -> bool:
        """Does the node tunnel take its connections?"""
        return (
            self.workload.tunnel_protocol is TunnelProtocol.HBONE
            and self.workload.network_mode is not NetworkMode.HOST_NETWORK
        )

    @property
    def ip(self) -> IPAddress:
        """The address that policies see."""
        return self.workload.addresses[0]


class Target(NamedTuple):
    """What is called: an address and a port, as the client's connection has them."""

    label: str
    address: HostPort
    service: Service | None = None


UNKNOWN_IP = parse_ip("0.0.0.0")


def read_source(mesh: Mesh, text: str, namespace: str) -> Source:
    """A pod, app or service (``ns/name``, ``name``, ``name.ns``, ``deploy/name``), an address, or
    a SPIFFE id. Raises UsageError that says what was looked for.
    """
    text = without_kind(text)
    if text.startswith(SCHEME):
        return _identity(mesh, text)
    ip = parse_ip(text)
    if ip is not None:
        found = mesh.state.workload_by_address(NetworkAddress("", ip))
        if found is not None:
            return Source(f"{found.namespace}/{found.name}", found)
        outside = Workload(uid="", name=text, namespace="", addresses=(ip,))
        return Source(f"{text} (outside the cluster)", outside, hypothetical=True)
    try:
        workload = find_workload(mesh, text, namespace)
    except UsageError:
        found_service = find_service(mesh, text, namespace) if "/" not in text else None
        pods = mesh.state.endpoints(found_service) if found_service is not None else ()
        if not pods:
            raise
        workload = pods[0].workload
        return Source(f"{workload.namespace}/{workload.name} (of service {text})", workload)
    return Source(f"{workload.namespace}/{workload.name}", workload)


def _identity(mesh: Mesh, text: str) -> Source:
    try:
        identity = Identity.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for workload in mesh.workloads:
        if workload.identity == identity and workload.addresses:
            return Source(text, workload)
    assert UNKNOWN_IP is not None
    made_up = Workload(
        uid="",
        name=identity.service_account,
        namespace=identity.namespace,
        service_account=identity.service_account,
        trust_domain=identity.trust_domain,
        addresses=(UNKNOWN_IP,),
        tunnel_protocol=TunnelProtocol.HBONE,
    )
    return Source(f"{text} (no pod has it; taken as one in the mesh)", made_up, hypothetical=True)


def find_workload(mesh: Mesh, text: str, namespace: str) -> Workload:
    """A pod by its name, or by that of its Deployment or app; the first of several."""
    where, name = place(text, namespace)
    there = [one for one in mesh.workloads if one.namespace == where and one.addresses]
    names = ("name", "workload_name", "canonical_name", "service_account")
    for attribute in names:
        for workload in there:
            if getattr(workload, attribute) == name:
                return workload
    known = {getattr(one, attribute) for one in there for attribute in names[1:3]}
    raise UsageError(
        f"no pod, app or service account {name!r} in namespace {where}",
        hint=f"give namespace/name; {near(name, known, 'apps there') or 'none is there'}",
    )


def read_target(mesh: Mesh, text: str, namespace: str) -> Target:
    """A service (``name``, ``name.ns``, ``name.ns.svc...``), a pod (``ns/name``) or an address,
    each with an optional ``:port``.

    Raises UsageError that says what was looked for.
    """
    host, port = _split_port(without_kind(text))
    ip = parse_ip(host)
    if ip is not None:
        at = NetworkAddress("", ip)
        service = mesh.state.service_by_address(at)
        if service is not None:
            return Target(str(service.key), HostPort(str(ip), port or _only_port(service)), service)
        return Target(host, HostPort(str(ip), port or _port_needed(text)))
    if "/" not in host:
        service = find_service(mesh, host, namespace)
        if service is not None:
            return _service_target(service, port)
    workload = find_workload(mesh, host, namespace)
    label = f"{workload.namespace}/{workload.name}"
    ports = [one.target_port for ports in workload.services.values() for one in ports]
    if not port and len(set(ports)) == 1:
        port = ports[0]
    return Target(label, HostPort(str(workload.addresses[0]), port or _port_needed(text)))


def find_service(mesh: Mesh, host: str, namespace: str) -> Service | None:
    """A service by any of the names that DNS would find from a pod of the namespace."""
    name, _, rest = host.rstrip(".").partition(".")
    where = rest.partition(".")[0] or namespace
    for service in mesh.state.services:
        if service.hostname == host or (service.name, service.namespace) == (name, where):
            return service
    return None


def _service_target(service: Service, port: int) -> Target:
    if not service.addresses:
        raise UsageError(
            f"service {service.key} is headless: it has no address of its own",
            hint="name one of its pods",
        )
    chosen = port or _only_port(service)
    if all(one.service_port != chosen for one in service.ports):
        known = ", ".join(str(one.service_port) for one in service.ports)
        raise UsageError(f"service {service.key} has no port {chosen}", hint=f"its ports: {known}")
    return Target(str(service.key), HostPort(str(service.addresses[0].ip), chosen), service)


def _only_port(service: Service) -> int:
    if len(service.ports) == 1:
        return service.ports[0].service_port
    known = ", ".join(str(one.service_port) for one in service.ports)
    raise UsageError(f"service {service.key}: which port?", hint=f"its ports: {known}")


def _port_needed(text: str) -> int:
    raise UsageError(f"{text}: which port?", hint=f"write {text}:PORT")


def _split_port(text: str) -> tuple[str, int]:
    """(host, port or 0); brackets around IPv6."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        return text, 0
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{text}: {port!r} is not a port", hint="a number from 1 to 65535")
    return host, int(port or 0)
