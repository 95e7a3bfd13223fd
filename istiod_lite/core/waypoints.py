"""Which waypoint an object is bound to, and why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.ports import HBONE_PORT
from ambient.api.service import GatewayAddress, NamespacedHostname, WeightedWaypoint
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts, ObjectKey

WAYPOINT_CLASS: Final = "istio-waypoint"
CONTROLLER_NAME: Final = "istio.io/mesh-controller"
MANAGED_BY_US: Final = "istio.io-mesh-controller"
_CONTROLLERS: Final = frozenset({MANAGED_BY_US, "istio.io-eastwest-controller"})
INBOUND_BINDING_ANNOTATION: Final = "ambient.istio.io/waypoint-inbound-binding"
SERVICE_ACCOUNT_ANNOTATION: Final = "gateway.istio.io/service-account"
CANARY_LABEL: Final = "istio.io/use-waypoint-canary"
CANARY_NAMESPACE_LABEL: Final = "istio.io/use-waypoint-canary-namespace"
CANARY_WEIGHT_ANNOTATION: Final = "istio.io/use-waypoint-canary-weight"
PROXY_LISTENER: Final = "istio.io/PROXY"
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
    OTHER_NAMESPACE = "CrossNamespaceWaypointForbidden"
    CANARY_WEIGHT = "CanaryInvalidWeight"
    CANARY_IS_PRIMARY = "CanarySameAsPrimary"


class Wish(NamedTuple):
    """The waypoint that labels ask for; ``inherited`` from the namespace."""

    gateway: ObjectKey
    inherited: bool
    canary: ObjectKey | None = None
    weight: str = "0"
    """The canary's share in percent, as the annotation says it."""


class Binding(NamedTuple):
    """The outcome: an address if bound, the gateway asked for if any, and why.

    ``address`` without ACCEPTED is where a mesh that fails closed sends traffic: nobody is there.
    """

    address: GatewayAddress | None
    gateway: ObjectKey | None
    reason: Reason
    inherited: bool = False
    canary: ObjectKey | None = None
    canary_reason: Reason = Reason.NOT_ASKED
    weighted: tuple[WeightedWaypoint, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether traffic goes through the waypoint."""
        return self.reason is Reason.ACCEPTED

    @property
    def gateways(self) -> tuple[ObjectKey, ...]:
        """All waypoints through which traffic goes."""
        both = (
            self.gateway if self.accepted else None,
            self.canary if self.canary_reason is Reason.ACCEPTED else None,
        )
        return tuple(one for one in both if one is not None)

    @property
    def asked(self) -> tuple[ObjectKey, ...]:
        """All Gateways on which the outcome depends."""
        return tuple(one for one in (self.gateway, self.canary) if one is not None)


UNBOUND: Final = Binding(None, None, Reason.NOT_ASKED)


class Waypoint(msgspec.Struct, frozen=True):
    """A Gateway that has addresses, as something to bind to."""

    key: ObjectKey
    address: GatewayAddress
    traffic: frozenset[Traffic]
    allowed: objects.RouteNamespaces


class Applicant(NamedTuple):
    """An object that may use a waypoint: where it is and what its clients address."""

    traffic: Traffic
    namespace: objects.Metadata | None
    private: bool = False
    """Only its own namespace sees it, so only a waypoint there may serve it."""


def is_waypoint(gateway: objects.Gateway) -> bool:
    """Whether we run this Gateway."""
    return gateway.spec.gateway_class_name == WAYPOINT_CLASS


def is_instance(metadata: objects.Metadata) -> bool:
    """Whether a pod or Service is part of a waypoint: those never go through one themselves."""
    return metadata.label(objects.MANAGED_LABEL) in _CONTROLLERS


def wish(metadata: objects.Metadata, namespace: objects.Metadata | None) -> Wish | None:
    """What an object asks for; its own label beats its namespace's, there is no mixture."""
    inherited = metadata.label(objects.USE_WAYPOINT_LABEL) is None
    source = namespace if inherited else metadata
    name = source.label(objects.USE_WAYPOINT_LABEL) if source is not None else None
    if source is None or not name:
        return None
    own = metadata.namespace
    where = source.label(objects.USE_WAYPOINT_NAMESPACE_LABEL) or own
    canary = source.label(CANARY_LABEL)
    canary_where = source.label(CANARY_NAMESPACE_LABEL) or own
    return Wish(
        ObjectKey(where, name),
        inherited,
        ObjectKey(canary_where, canary) if canary else None,
        source.annotation(CANARY_WEIGHT_ANNOTATION) or "0",
    )


def bind(
    asked: Wish | None,
    applicant: Applicant,
    find: Callable[[ObjectKey], Waypoint | None],
    facts: MeshFacts,
) -> Binding:
    """Bind to the waypoint asked for; ``find`` gives None where one is missing or not ready.

    There is no fallback from an object's own label to its namespace's.
    """
    if asked is None:
        return UNBOUND
    if asked.gateway.name == OPT_OUT:
        return Binding(None, None, Reason.OPTED_OUT)
    waypoint = find(asked.gateway)
    reason = _judge(waypoint, asked.gateway, applicant)
    if waypoint is None or reason is not Reason.ACCEPTED:
        silent = asked.inherited and reason is Reason.OTHER_TRAFFIC
        closed = (
            _nowhere(asked.gateway, facts) if facts.waypoint_fail_closed and not silent else None
        )
        return Binding(closed, asked.gateway, reason, asked.inherited)
    bound = Binding(waypoint.address, asked.gateway, reason, asked.inherited)
    if asked.canary is None or applicant.traffic is not Traffic.SERVICE:
        return bound
    return _with_canary(bound, waypoint, asked, applicant, find(asked.canary))


def _with_canary(
    bound: Binding, primary: Waypoint, asked: Wish, applicant: Applicant, canary: Waypoint | None
) -> Binding:
    """A canary that cannot be used never unbinds the primary."""
    assert asked.canary is not None
    weight = int(asked.weight) if asked.weight.isascii() and asked.weight.isdigit() else -1
    if asked.canary == primary.key:
        reason = Reason.CANARY_IS_PRIMARY
    elif not 0 <= weight <= 100:
        reason = Reason.CANARY_WEIGHT
    else:
        reason = _judge(canary, asked.canary, applicant)
    bound = bound._replace(canary=asked.canary, canary_reason=reason)
    if canary is None or reason is not Reason.ACCEPTED:
        return bound
    shares = ((primary.address, 100 - weight), (canary.address, weight))
    return bound._replace(weighted=tuple(WeightedWaypoint(*share) for share in shares))


def _judge(waypoint: Waypoint | None, key: ObjectKey, applicant: Applicant) -> Reason:
    namespace = applicant.namespace
    if applicant.private and (namespace is None or namespace.name != key.namespace):
        return Reason.OTHER_NAMESPACE
    if waypoint is None:
        return Reason.NOT_READY
    if not allows(waypoint.allowed, key.namespace, namespace):
        return Reason.DENIED
    return Reason.ACCEPTED if applicant.traffic in waypoint.traffic else Reason.OTHER_TRAFFIC


def _nowhere(gateway: ObjectKey, facts: MeshFacts) -> GatewayAddress:
    """The name that the waypoint's Service has, or would have: without a waypoint behind it
    tunnels refuse the connection and name the waypoint.
    """
    return GatewayAddress(
        NamespacedHostname(gateway.namespace, facts.hostname(gateway)), HBONE_PORT
    )


def waypoint_of(
    gateway: objects.Gateway, class_: objects.GatewayClass | None, facts: MeshFacts
) -> Waypoint | None:
    """A Gateway as something to bind to; None until its status has an address."""
    key = ObjectKey(gateway.metadata.namespace, gateway.metadata.name)
    address = _address(gateway, facts)
    if address is None:
        return None
    asked = traffic_type(gateway, class_)
    traffic = [one for one in Traffic if asked in (one.value, "all")]
    return Waypoint(key, address, frozenset(traffic), allowed_routes(gateway, class_))


def traffic_type(gateway: objects.Gateway, class_: objects.GatewayClass | None) -> str:
    """``service``, ``workload``, ``all`` or ``none``: the Gateway's label beats its class's."""
    label = objects.WAYPOINT_FOR_LABEL
    of_class = class_.metadata.label(label) if class_ is not None else None
    return gateway.metadata.label(label) or of_class or Traffic.SERVICE.value


def inbound_binding(
    gateway: objects.Gateway | None, class_: objects.GatewayClass | None
) -> ApplicationTunnel | None:
    """How peers hand traffic to the waypoint's pods, where it asks for PROXY instead of HBONE."""
    text = None
    for one in (gateway, class_):
        text = text or (one.metadata.annotation(INBOUND_BINDING_ANNOTATION) if one else None)
    protocol, _, port = (text or "").partition("/")
    if protocol != "PROXY" or (port and not port.isdecimal()):
        return None
    return ApplicationTunnel(ApplicationTunnelProtocol.PROXY, int(port or 0))


def allowed_routes(
    gateway: objects.Gateway, class_: objects.GatewayClass | None
) -> objects.RouteNamespaces:
    """Whom the listener of mesh traffic lets attach; the API's default is the same namespace."""
    tunnel = inbound_binding(gateway, class_)
    for listener in gateway.spec.listeners or ():
        if tunnel is not None:
            found = listener.protocol == PROXY_LISTENER and tunnel.port in (0, listener.port)
        else:
            found = (listener.protocol, listener.port) == ("HBONE", HBONE_PORT)
        if found and listener.allowed_routes is not None:
            return listener.allowed_routes.namespaces or objects.RouteNamespaces()
    return objects.RouteNamespaces()


def allows(allowed: objects.RouteNamespaces, own: str, namespace: objects.Metadata | None) -> bool:
    """Whether objects of ``namespace`` may attach to a Gateway of namespace ``own``."""
    match allowed.from_:
        case "All":
            return True
        case "None":
            return False
        case "Selector":
            if allowed.selector is None or namespace is None:
                return False
            return objects.matches(allowed.selector, namespace.labels)
        case _:  # Same is the Gateway API's default
            return namespace is not None and namespace.name == own


def service_account_name(gateway: objects.Gateway) -> str:
    """The identity that a waypoint of ours runs as."""
    return gateway.metadata.annotation(SERVICE_ACCOUNT_ANNOTATION) or gateway.metadata.name


def policy_key(gateway: ObjectKey) -> str:
    """The policy that admits a waypoint (Istio's name)."""
    return f"{gateway.namespace}/istio_allow_waypoint_{gateway.namespace}_{gateway.name}"


def admitting(
    gateway: objects.Gateway, instances: Mapping[str, None], facts: MeshFacts
) -> Authorization | None:
    """ALLOW for a waypoint, by its accounts: one we know where we deploy it, else its pods'."""
    key = ObjectKey(gateway.metadata.namespace, gateway.metadata.name)
    managed = is_waypoint(gateway) and not gateway.spec.addresses
    accounts = (service_account_name(gateway),) if managed else sorted(instances)
    if not accounts:
        return None
    prefix = f"{facts.trust_domain}/ns/{key.namespace}/sa/"
    names = tuple(StringMatch(MatchKind.EXACT, prefix + one) for one in accounts)
    return Authorization(
        name=policy_key(key).partition("/")[2],
        namespace=key.namespace,
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.ALLOW,
        groups=(((Match(principals=names),),),),
    )


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
