"""The mesh state as a file gives it: upstream's local configuration, which has the names and values
of ``/config_dump``. An entry is taken whole or the file is refused, by entry and field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from ipaddress import ip_network
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import yaml

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.errors import MeshError
from ambient.api.policy import (
    Action,
    Authorization,
    Match,
    MatchKind,
    Scope,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.api.ports import HBONE_PORT
from ambient.api.service import (
    AddressRange,
    GatewayAddress,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    NamespacedHostname,
    Port,
    Service,
    Visibility,
    WeightedWaypoint,
)
from ambient.api.service import Scope as RoutingScope
from ambient.api.spiffe import DEFAULT_TRUST_DOMAIN
from ambient.api.workload import (
    ApplicationTunnel,
    ApplicationTunnelProtocol,
    Locality,
    NetworkMode,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
    WorkloadType,
)

S = TypeVar("S")
E = TypeVar("E", bound=IntEnum)
R = TypeVar("R")
_KEY = re.compile(r"field `(\w+)`")


class LocalConfigError(MeshError):
    """The file cannot be used; says which entry and which field."""


class LocalConfig(NamedTuple):
    """Everything in the file, by xDS resource name."""

    addresses: dict[str, Workload | Service]
    policies: dict[str, Authorization]


class _Shape(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One kind of entry; camelCase outside, and no key that we do not know."""


class _Gateway(_Shape):
    destination: str
    hbone_mtls_port: int = HBONE_PORT


class _Tunnel(_Shape):
    protocol: str = "NONE"
    port: int = 0


class _Place(_Shape):
    region: str = ""
    zone: str = ""
    subzone: str = ""


class _Workload(_Shape):
    uid: str
    name: str
    namespace: str
    service_account: str = "default"
    workload_ips: list[str] = []
    protocol: Literal["HBONE", "TCP"] = "TCP"
    network: str = ""
    network_mode: str = "Standard"
    hostname: str = ""
    node: str = ""
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    waypoint: _Gateway | None = None
    network_gateway: _Gateway | None = None
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: str = "Pod"
    workload_name: str = ""
    native_tunnel: bool = False
    application_tunnel: _Tunnel | None = None
    authorization_policies: list[str] = []
    status: str = "Healthy"
    cluster_id: str = "Kubernetes"
    locality: _Place = msgspec.field(default_factory=_Place)
    capacity: int = 1
    services: dict[str, dict[int, int]] = {}


class _Range(_Shape):
    cidr: str
    network: str = ""


class _Weighted(_Shape):
    destination: _Gateway
    weight: int


class _Balancer(_Shape):
    routing_preferences: list[str] = []
    mode: str = "Standard"
    health_policy: str = "OnlyHealthy"


class _Service(_Shape):
    name: str
    namespace: str
    hostname: str
    vips: list[str] = []
    cidr_vips: list[_Range] = []
    ports: dict[int, int] = {}
    subject_alt_names: list[str] = []
    waypoint: _Gateway | None = None
    weighted_waypoints: list[_Weighted] = []
    load_balancer: _Balancer | None = None
    ip_families: Literal["Dual", "IPv4", "IPv6"] | None = None
    canonical: bool = False
    visibility: str = "Public"


_Text = dict[str, Any]


class _Account(_Shape):
    namespace: str
    service_account: str


class _Match(_Shape):
    namespaces: list[_Text] = []
    not_namespaces: list[_Text] = []
    principals: list[_Text] = []
    not_principals: list[_Text] = []
    source_ips: list[str] = []
    not_source_ips: list[str] = []
    destination_ips: list[str] = []
    not_destination_ips: list[str] = []
    destination_ports: list[int] = []
    not_destination_ports: list[int] = []
    service_accounts: list[_Account] = []
    not_service_accounts: list[_Account] = []


class _Policy(_Shape):
    name: str
    namespace: str
    scope: str
    action: str
    rules: list[list[list[_Match]]] = []
    dry_run: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    workloads: list[Any] | None = None
    services: list[Any] | None = None
    policies: list[Any] | None = None


class _BadFieldError(ValueError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def read(text: str, source: str) -> LocalConfig:
    """Everything in a YAML file. ``source`` names it in errors. Raises LocalConfigError."""
    try:
        document = yaml.safe_load(text)
        found = msgspec.convert(document if document is not None else {}, _File)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise LocalConfigError(f"{source} is no YAML: {reason}") from None
    except msgspec.ValidationError as error:
        raise LocalConfigError(
            f"{source}: {error}", hint="its keys are workloads, services and policies, each a list"
        ) from None
    workloads = _entries(source, "workload", found.workloads, _Workload, _workload)
    services = _entries(source, "service", found.services, _Service, _service)
    policies = _entries(source, "policy", found.policies, _Policy, _policy)
    return LocalConfig(
        addresses=_by_name(source, "uid", [(w.uid, w) for w in workloads])
        | _by_name(source, "service", [(str(s.key), s) for s in services]),
        policies=_by_name(source, "policy", [(p.key, p) for p in policies]),
    )


def _entries(
    source: str, kind: str, raw: list[Any] | None, shape: type[S], make: Callable[[S], R]
) -> list[R]:
    made = []
    for number, entry in enumerate(raw or (), start=1):
        try:
            # Numbers in quotes are numbers all the same, above all as keys.
            made.append(make(msgspec.convert(entry, shape, strict=False)))
        except msgspec.ValidationError as error:
            raise _refused(source, kind, number, entry, *_field_of(str(error))) from None
        except UnicodeError:
            field = "(the entry itself)"
            raise _refused(source, kind, number, entry, field, "a text is no Unicode") from None
        except _BadFieldError as error:
            raise _refused(source, kind, number, entry, error.field, str(error)) from None
    return made


def _field_of(message: str) -> tuple[str, str]:
    """Field and reason in what msgspec says: "reason - at `$.path`", or a key in the reason."""
    reason, _, place = message.partition(" - at ")
    path = place.rpartition("`$")[2].strip("`.")
    key = _KEY.search(reason)
    if key is not None:
        path = f"{path}.{key[1]}".strip(".")
    return path or "(the entry itself)", reason


def _refused(
    source: str, kind: str, number: int, entry: object, field: str, reason: str
) -> LocalConfigError:
    name = ""
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        name = f" {entry.get('namespace', '')}/{entry['name']}"
    return LocalConfigError(
        f"{source}: {kind} {number}{name}: {field}: {reason}",
        hint="docs/ztunnel.md describes every field (File mode)",
    )


def _by_name(source: str, kind: str, pairs: Iterable[tuple[str, R]]) -> dict[str, R]:
    found: dict[str, R] = {}
    for name, value in pairs:
        if name in found:
            raise LocalConfigError(f"{source}: {kind} {name} is there twice")
        found[name] = value
    return found


def _workload(one: _Workload) -> Workload:
    place = one.locality
    return Workload(
        uid=one.uid,
        name=one.name,
        namespace=one.namespace,
        addresses=tuple(_checked("workloadIps", one.workload_ips, parse_ip)),
        network=one.network,
        hostname=one.hostname,
        tunnel_protocol=TunnelProtocol.HBONE if one.protocol == "HBONE" else TunnelProtocol.NONE,
        trust_domain=one.trust_domain,
        service_account=one.service_account,
        waypoint=_gateway("waypoint", one.waypoint),
        network_gateway=_gateway("networkGateway", one.network_gateway),
        node=one.node,
        canonical_name=one.canonical_name,
        canonical_revision=one.canonical_revision,
        workload_type=_member("workloadType", WorkloadType, one.workload_type),
        workload_name=one.workload_name,
        native_tunnel=one.native_tunnel,
        authorization_policies=tuple(one.authorization_policies),
        status=_member("status", WorkloadStatus, one.status),
        cluster_id=one.cluster_id,
        services={_key("services", key): _ports("services", m) for key, m in one.services.items()},
        application_tunnel=None
        if one.application_tunnel is None
        else _tunnel(one.application_tunnel),
        locality=Locality(place.region, place.zone, place.subzone),
        network_mode=_member("networkMode", NetworkMode, one.network_mode),
        capacity=one.capacity,
    )


def _tunnel(one: _Tunnel) -> ApplicationTunnel:
    protocol = _member("applicationTunnel.protocol", ApplicationTunnelProtocol, one.protocol)
    return ApplicationTunnel(protocol, _port("applicationTunnel.port", one.port))


_FAMILIES = {
    None: IPFamilies.AUTOMATIC,
    "Dual": IPFamilies.DUAL,
    "IPv4": IPFamilies.IPV4_ONLY,
    "IPv6": IPFamilies.IPV6_ONLY,
}


def _service(one: _Service) -> Service:
    key = _key("hostname", f"{one.namespace}/{one.hostname}")
    return Service(
        name=one.name,
        namespace=key.namespace,
        hostname=key.hostname,
        addresses=tuple(_checked("vips", one.vips, _network_address)),
        ranges=tuple(
            AddressRange(span.network, _checked("cidrVips", [span.cidr], _network)[0])
            for span in one.cidr_vips
        ),
        ports=_ports("ports", one.ports),
        subject_alt_names=tuple(one.subject_alt_names),
        waypoint=_gateway("waypoint", one.waypoint),
        load_balancing=_balancing(one.load_balancer or _Balancer()),
        ip_families=_FAMILIES[one.ip_families],
        canonical=one.canonical,
        weighted_waypoints=tuple(
            WeightedWaypoint(at, weighted.weight)
            for weighted in one.weighted_waypoints
            if (at := _gateway("weightedWaypoints", weighted.destination)) is not None
        ),
        visibility=_member("visibility", Visibility, one.visibility),
    )


def _balancing(one: _Balancer) -> LoadBalancing:
    standard = one.mode == "Standard"
    scopes = [
        _member("loadBalancer.routingPreferences", RoutingScope, scope)
        for scope in one.routing_preferences
    ]
    return LoadBalancing(
        tuple(scopes),
        Mode.UNSPECIFIED_MODE if standard else _member("loadBalancer.mode", Mode, one.mode),
        _member("loadBalancer.healthPolicy", HealthPolicy, one.health_policy),
    )


def _policy(one: _Policy) -> Authorization:
    return Authorization(
        name=one.name,
        namespace=one.namespace,
        scope=_member("scope", Scope, one.scope),
        action=_member("action", Action, one.action),
        groups=tuple(
            tuple(tuple(_match(match) for match in clause) for clause in group)
            for group in one.rules
        ),
        dry_run=one.dry_run,
    )


def _match(one: _Match) -> Match:
    fields: dict[str, Any] = {}
    for name in one.__struct_fields__:
        field, values = f"rules.{_camel(name)}", getattr(one, name)
        if name.endswith("_ips"):
            fields[name] = tuple(_checked(field, values, _network))
        elif name.endswith("_ports"):
            fields[name] = tuple(_port(field, value) for value in values)
        elif name.endswith("service_accounts"):
            fields[name] = tuple(
                ServiceAccountMatch(v.namespace, v.service_account) for v in values
            )
        else:
            fields[name] = tuple(_string(field, value) for value in values)
    return Match(**fields)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _string(field: str, value: _Text) -> StringMatch:
    if len(value) == 1:
        ((name, text),) = value.items()
        kind = _member(field, MatchKind, name)
        if kind is MatchKind.PRESENCE:
            return StringMatch(kind)
        if isinstance(text, str):
            return StringMatch(kind, text)
    raise _BadFieldError(field, f"{value} is not one of Exact, Prefix, Suffix or Presence")


def _gateway(field: str, one: _Gateway | None) -> GatewayAddress | None:
    """``network/ip`` (the network may be empty) or ``namespace/hostname``."""
    if one is None:
        return None
    at = _network_address(one.destination) or _key(f"{field}.destination", one.destination)
    return GatewayAddress(at, _port(f"{field}.hboneMtlsPort", one.hbone_mtls_port))


def _network_address(text: str) -> NetworkAddress | None:
    network, slash, host = text.partition("/")
    ip = parse_ip(host) if slash else None
    return NetworkAddress(network, ip) if ip is not None else None


def _network(text: str) -> Any:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _checked(field: str, texts: Sequence[str], read_one: Callable[[str], R | None]) -> list[R]:
    """Every one of them. Raises _BadFieldError for the first that cannot be read."""
    found = []
    for text in texts:
        value = read_one(text)
        if value is None:
            wanted = {"vips": "network/address"}.get(field, "an address or a range of addresses")
            raise _BadFieldError(field, f"{text!r} is not {wanted}")
        found.append(value)
    return found


def _key(field: str, text: str) -> NamespacedHostname:
    try:
        return NamespacedHostname.parse(text)
    except ValueError as error:
        raise _BadFieldError(field, str(error)) from None


def _ports(field: str, mapping: dict[int, int]) -> tuple[Port, ...]:
    return tuple(Port(_port(field, one), _port(field, to)) for one, to in mapping.items())


def _port(field: str, number: int) -> int:
    if not 0 <= number <= 65535:
        raise _BadFieldError(field, f"{number} is no port")
    return number


def _member(field: str, kind: type[E], text: str) -> E:
    """A value of an enumeration in the dump's spelling: ``HostNetwork`` is ``HOST_NETWORK``."""
    spelled = {member.name.replace("_", "").lower(): member for member in kind}
    found = spelled.get(text.replace("_", "").lower())
    if found is None:
        raise _BadFieldError(field, f"{text!r} is none of {', '.join(spelled)}")
    return found
