"""Mesh states for decisions, in as few words as the decision needs."""

from ipaddress import ip_address

from ambient.api.address import NetworkAddress, parse_authority
from ambient.api.service import GatewayAddress, NamespacedHostname, Port, Service
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.api.workload import TunnelProtocol, Workload
from ambient.state.core.mesh import MeshState


def at(text):
    """``host:port`` as the kernel gives it."""
    return parse_authority(text)


def address(ip, network=""):
    return NetworkAddress(network, ip_address(ip))


def workload(name, *ips, hbone=True, namespace="shop", services=None, **more):
    """A pod; ``services`` maps a hostname of its namespace to ``{service port: target port}``."""
    return Workload(
        uid=f"Kubernetes//Pod/{namespace}/{name}",
        name=name,
        namespace=namespace,
        addresses=tuple(map(ip_address, ips)),
        tunnel_protocol=TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE,
        services={
            NamespacedHostname(namespace, host): ports(mapping)
            for host, mapping in (services or {}).items()
        },
        **{"service_account": name} | more,
    )


def service(hostname, *vips, namespace="shop", port_map=None, **more):
    return Service(
        name=hostname.partition(".")[0],
        namespace=namespace,
        hostname=hostname,
        addresses=tuple(map(address, vips)),
        ports=ports({80: 8080} if port_map is None else port_map),
        **more,
    )


def ports(mapping):
    return tuple(Port(service_port, target) for service_port, target in mapping.items())


def waypoint(where, port=15008, network=""):
    """By address, or by ``namespace/hostname``; network gateways are named in the same way."""
    if "/" in where:
        return GatewayAddress(NamespacedHostname.parse(where), port)
    return GatewayAddress(address(where, network), port)


def mesh(*things):
    """A state that knows these workloads, services and policies."""
    state = MeshState()
    for number, thing in enumerate(things):
        kind = ADDRESS_TYPE if hasattr(thing, "addresses") else AUTHORIZATION_TYPE
        state.apply(kind, {str(number): thing}, ())
    return state
