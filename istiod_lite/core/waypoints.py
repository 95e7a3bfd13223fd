"""Which waypoint an object is bound to, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.ports import HBONE_PORT
from ambient.api.service import GatewayAddress, NamespacedHostname
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts, ObjectKey

WAYPOINT_CLASS: Final = "istio-waypoint"
MANAGED_BY_US: Final = "istio.io-mesh-controller"
_CONTROLLERS: Final = frozenset({MANAGED_BY_US, "istio.io-eastwest-controller"})
INBOUND_BINDING_ANNOTATION: Final = "ambient.istio.io/waypoint-inbound-binding"
OPT_OUT: Final = "none"


class Traffic(StrEnum):
    """What a client addressed: a service's address or a workload's own."""

    SERVICE = "service"
    WORKLOAD = "workload"


class Reason(StrEnum):
    """Why an object is bound or not (Istio's reasons for condition ``istio.io/WaypointBound``)."""

    ACCEPTED = "WaypointAccepted"
    NOT_ASKED = ""
    OPTED_OUT = "OptedOut"
    NOT_READY = "WaypointIsNotReady"
    DENIED = "AttachmentDenied"
    OTHER_TRAFFIC = "UnsupportedTrafficType"


class Wish(NamedTuple):
    """The waypoint that labels ask for; ``inherited`` from the namespace."""

    gateway: ObjectKey
    inherited: bool


class Binding(NamedTuple):
    """The outcome: an address if bound, the gateway asked for if any, and why."""

    address: GatewayAddress | None
    gateway: ObjectKey | None
    reason: Reason


UNBOUND: Final = Binding(None, None, Reason.NOT_ASKED)


class Waypoint(msgspec.Struct, frozen=True):
    """A Gateway that has addresses, as something to bind to."""

    key: ObjectKey
    address: GatewayAddress
    traffic: frozenset[Traffic]
    allowed: objects.RouteNamespaces


def is_waypoint(gateway: objects.Gateway) -> bool:
    """Whether we run this Gateway."""
    return gateway.spec.gateway_class_name == WAYPOINT_CLASS


def is_instance(metadata: objects.Metadata) -> bool:
    """Whether a pod or Service is part of a waypoint: those never go through one themselves."""
    return metadata.label(objects.MANAGED_LABEL) in _CONTROLLERS


def wish(
    labels: Mapping[str, str] | None, namespace: objects.Metadata | None, own: str
) -> Wish | None:
    """What an object in namespace ``own`` asks for; its own label beats its namespace's."""
    inherited = objects.USE_WAYPOINT_LABEL not in (labels or {})
    source = (namespace.labels if namespace is not None else None) if inherited else labels
    name = (source or {}).get(objects.USE_WAYPOINT_LABEL)
    if not name:
        return None
    where = (source or {}).get(objects.USE_WAYPOINT_NAMESPACE_LABEL) or own
    return Wish(ObjectKey(where, name), inherited)


def bind(
    asked: Wish | None,
    traffic: Traffic,
    waypoint: Waypoint | None,
    namespace: objects.Metadata | None,
) -> Binding:
    """Bind to ``waypoint``, the one asked for, None where it is missing or has no address.

    There is no fallback from an object's own label to its namespace's.
    """
    if asked is None:
        return UNBOUND
    if asked.gateway.name == OPT_OUT:
        return Binding(None, None, Reason.OPTED_OUT)
    if waypoint is None:
        return Binding(None, asked.gateway, Reason.NOT_READY)
    if not _allowed(waypoint, namespace):
        return Binding(None, asked.gateway, Reason.DENIED)
    if traffic not in waypoint.traffic:
        return Binding(None, asked.gateway, Reason.OTHER_TRAFFIC)
    return Binding(waypoint.address, asked.gateway, Reason.ACCEPTED)


def waypoint_of(gateway: objects.Gateway, facts: MeshFacts) -> Waypoint | None:
    """A Gateway as something to bind to; None until its status has an address."""
    key = ObjectKey(gateway.metadata.namespace, gateway.metadata.name)
    address = _address(gateway, facts)
    if address is None:
        return None
    asked = gateway.metadata.label(objects.WAYPOINT_FOR_LABEL) or Traffic.SERVICE.value
    traffic = [one for one in Traffic if asked in (one.value, "all")]
    listener = next((one for one in gateway.spec.listeners or () if one.protocol == "HBONE"), None)
    allowed = listener and listener.allowed_routes and listener.allowed_routes.namespaces
    return Waypoint(key, address, frozenset(traffic), allowed or objects.RouteNamespaces())


def inbound_binding(gateway: objects.Gateway | None) -> ApplicationTunnel | None:
    """How peers hand traffic to the waypoint's pods, where it asks for PROXY instead of HBONE."""
    text = gateway.metadata.annotation(INBOUND_BINDING_ANNOTATION) if gateway else None
    protocol, _, port = (text or "").partition("/")
    if protocol != "PROXY" or (port and not port.isdecimal()):
        return None
    return ApplicationTunnel(ApplicationTunnelProtocol.PROXY, int(port or 0))


def _address(gateway: objects.Gateway, facts: MeshFacts) -> GatewayAddress | None:
    addresses = gateway.status.addresses or ()
    for one in addresses:
        if one.type == "Hostname" and one.value:
            name = NamespacedHostname(gateway.metadata.namespace, one.value)
            return GatewayAddress(name, HBONE_PORT)
    for one in addresses:
        if (ip := parse_ip(one.value)) is not None:
            return GatewayAddress(NetworkAddress(facts.network, ip), HBONE_PORT)
    return None


def _allowed(waypoint: Waypoint, namespace: objects.Metadata | None) -> bool:
    match waypoint.allowed.from_:
        case "All":
            return True
        case "Selector":
            if waypoint.allowed.selector is None or namespace is None:
                return False
            return objects.matches(waypoint.allowed.selector, namespace.labels)
        case _:  # Same is the Gateway API's default
            return namespace is not None and namespace.name == waypoint.key.namespace
