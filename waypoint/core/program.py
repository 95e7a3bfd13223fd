"""The compiled configuration. One program is replaced by the next as a whole.

A request takes its program once and keeps it to the end, so a change never tears a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname, Service
from waypoint.core.authz import PolicySet
from waypoint.core.authz_rules import unreadable_policy
from waypoint.core.backend_policy import (
    BackendPolicy,
    applied,
    compile_backend_tls,
    compile_backend_traffic,
)
from waypoint.core.delegate import Find, delegates_of
from waypoint.core.destination_rule import (
    DestinationRule,
    Traffic,
    compile_destination_rule,
    traffic_for,
)
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination
from waypoint.core.envoy_filter import Limits
from waypoint.core.gateway_stream import GatewayStreams, compile_gateway_streams
from waypoint.core.grpc_route import compile_grpc_route
from waypoint.core.host import Target, candidates
from waypoint.core.http_route import (
    CONSUMER,
    HttpRouteRoutes,
    RankedRoute,
    compile_http_route,
    not_from,
)
from waypoint.core.mesh_settings import MeshSettings
from waypoint.core.message import Peer
from waypoint.core.objects import Problem, UnusableError
from waypoint.core.place import Place
from waypoint.core.policies import POLICY_KINDS, Policies, PolicyPart, compile_part
from waypoint.core.request_authentication import Authentication
from waypoint.core.routes import Backend, Forward, Route, RouteTable
from waypoint.core.stream_route import StreamRoute
from waypoint.core.traffic_policy import ClusterSettings
from waypoint.core.virtual_service import VirtualServiceRoutes, compile_virtual_service

TELEMETRY: Final = "Telemetry"
"""Compiled by ``waypoint.core.watches``: it has no part in a decision."""
Part = (
    VirtualServiceRoutes
    | HttpRouteRoutes
    | GatewayStreams
    | DestinationRule
    | BackendPolicy
    | PolicyPart
)
KINDS: Final = (
    "VirtualService",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "DestinationRule",
    "BackendTLSPolicy",
    "XBackendTrafficPolicy",
    *POLICY_KINDS,
    TELEMETRY,
)
"""The kinds of objects that a program is made of; others are ignored."""


VIRTUAL_SERVICE: Final = "VirtualService"
KNOWN_CHAINS: Final = 4096
"""Services are replaced when the mesh changes: what was known of old ones is forgotten then."""


class Compiled(msgspec.Struct, frozen=True):
    """One object: what it became (None where nothing could be used) and its problems."""

    config: ConfigObject
    part: Part | None
    problems: tuple[Problem, ...]


class FilterChain(NamedTuple):
    """What a configuration has for one destination: looked up once, used by every request.

    ``routes`` is None for a pod's own address.
    """

    service: Service | None
    policies: PolicySet
    authentication: Authentication
    limits: Limits
    routes: RouteTable | None
    asks: bool = False
    """Does a route have an authorizer of its own?"""


class Program:
    """Everything that configuration says. Immutable but for its caches."""

    def __init__(self, place: Place, objects: Mapping[str, Compiled] | None = None) -> None:
        self.place = place
        self.objects: Mapping[str, Compiled] = objects or {}
        parts = [compiled.part for compiled in self.objects.values()]
        self.guards = Policies(parts, place)
        mesh = next((part for part in parts if isinstance(part, MeshSettings)), MeshSettings())
        self._mesh = mesh
        self._rules = [part for part in parts if isinstance(part, DestinationRule)]
        self._backend_policies = [part for part in parts if isinstance(part, BackendPolicy)]
        self._http_routes = [part for part in parts if isinstance(part, HttpRouteRoutes)]
        self._stream_routes = sorted(
            (part for part in parts if isinstance(part, GatewayStreams)), key=lambda part: part.age
        )
        self._virtual_services = sorted(
            (part for part in parts if isinstance(part, VirtualServiceRoutes)),
            key=lambda part: part.age,
        )
        self._tables: dict[tuple[NamespacedHostname, int], RouteTable] = {}
        self._streams: dict[tuple[NamespacedHostname, int], tuple[StreamRoute, ...]] = {}
        self._needs_sni: dict[tuple[NamespacedHostname | None, int], bool] = {}
        self._traffic: dict[NamespacedHostname, Traffic] = {}
        self._settings: dict[tuple[NamespacedHostname, str, int, str], ClusterSettings] = {}
        self.resolved: dict[tuple[int, int], tuple[int, Backend | None, object]] = {}
        """What backends lead to, by their ids; kept by ``plan.resolve``."""
        self._chains: dict[tuple[int, int], FilterChain] = {}
        self._defaults: dict[tuple[NamespacedHostname, int], Route] = {}
        self._endpoints: dict[
            tuple[NamespacedHostname, int, str], tuple[int, tuple[Target, ...]]
        ] = {}

    def changed(self, objects: Iterable[ConfigObject], removed: Iterable[str] = ()) -> Program:
        """The next program; objects that did not change keep what they became."""
        gone = set(removed)
        compiled = {key: old for key, old in self.objects.items() if key not in gone}
        given = {config.key: config for config in objects if config.kind in KINDS}

        def find(namespace: str, name: str) -> ConfigObject | None:
            key = f"{VIRTUAL_SERVICE}/{namespace}/{name}"
            return given[key] if key in given else compiled[key].config if key in compiled else None

        again = [old.config for old in compiled.values() if _delegates(old, gone | given.keys())]
        for config in [*again, *given.values()]:
            compiled[config.key] = compile_object(given.get(config.key, config), self.place, find)
        return self._with_aliases(compiled, find)

    def _with_aliases(self, compiled: dict[str, Compiled], find: Find) -> Program:
        """Principals of all policies mean the aliases of the mesh's trust domain too."""
        mesh = next((c.part for c in compiled.values() if isinstance(c.part, MeshSettings)), None)
        aliases = mesh.trust_domain_aliases if mesh is not None else ()
        if aliases == self.place.trust_domain_aliases:
            return Program(self.place, compiled)
        place = msgspec.structs.replace(self.place, trust_domain_aliases=aliases)
        again = {key: compile_object(c.config, place, find) for key, c in compiled.items()}
        return Program(place, again)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is not enforced as written."""
        return tuple(p for compiled in self.objects.values() for p in compiled.problems)

    def chain(self, to: Destination) -> FilterChain:
        """What requests to a destination pass: the same object as long as its service is."""
        service = to.service
        key = (id(service), to.address.port)
        found = self._chains.get(key)
        if found is not None and found.service is service:
            return found
        if len(self._chains) >= KNOWN_CHAINS:
            self._chains.clear()
        guards = self.guards
        table = self.table(service, to.address.port) if service is not None else None
        found = self._chains[key] = FilterChain(
            service,
            guards.authorization(service),
            guards.authentication(service),
            guards.limits(service),
            table,
            table is not None and table.asks,
        )
        return found

    def table(self, service: Service, port: int) -> RouteTable:
        """The routes of a service port."""
        key = (service.key, port)
        if key not in self._tables:
            self._tables[key] = self._build_table(service, port)
        return self._tables[key]

    def streams(self, service: Service, port: int) -> tuple[StreamRoute, ...]:
        """The routes of a service port's connections that are not HTTP, in order."""
        key = (service.key, port)
        if key not in self._streams:
            found: list[StreamRoute] = []
            for part in self._stream_routes:
                found += part.streams_for(service, port)
            for virtual in self._virtual_services:
                if virtual.applies_to(service.namespace, service.hostname, self.place):
                    found += virtual.streams
            self._streams[key] = tuple(sorted(found, key=lambda one: (one.kind, not one.of)))
        return self._streams[key]

    def policies(self, service: Service | None) -> PolicySet:
        """The policies for a service; None means a pod's own address."""
        return self.guards.authorization(service)

    def traffic(self, service: NamespacedHostname) -> Traffic:
        """Subsets and traffic policy of a service."""
        if service not in self._traffic:
            self._traffic[service] = traffic_for(self._rules, service, self.place)
        return self._traffic[service]

    def settings(self, service: Service, port: int, subset: str) -> ClusterSettings:
        """How a service's port is called; the same object each time."""
        key = (service.key, service.name, port, subset)
        if key not in self._settings:
            traffic = self.traffic(service.key)
            found = traffic.settings(port, traffic.subsets.get(subset))
            found = applied(self._backend_policies, service, port, found)
            self._settings[key] = msgspec.structs.replace(
                found, mesh_locality=self._mesh.locality, pool=self._mesh.pool.fill(found.pool)
            )
        return self._settings[key]

    def endpoints(
        self, directory: Directory, service: Service, port: int, subset: str
    ) -> tuple[Target, ...]:
        """The endpoints of a service's port that may be used; the same object until the mesh
        changes.
        """
        key = (service.key, port, subset)
        generation, found = self._endpoints.get(key, (-1, ()))
        if generation != directory.generation:
            members = self.traffic(service.key).subsets.get(subset) if subset else None
            now = candidates(directory, service, port, members)
            found = found if now == found else now
            self._endpoints[key] = (directory.generation, found)
        return found

    def needs_sni(self, service: Service | None, port: int) -> bool:
        """Does anything depend on the server name that a client of this port asks for?"""
        key = (service.key if service is not None else None, port)
        if key not in self._needs_sni:
            streams = self.streams(service, port) if service is not None else ()
            host = service.hostname if service is not None else ""
            self._needs_sni[key] = self.policies(service).asks_for("connection.sni") or any(
                stream.needs_sni(host, port) for stream in streams
            )
        return self._needs_sni[key]

    def stream_route(self, service: Service, port: int, sni: str, peer: Peer) -> Route:
        """Where a connection goes that is not HTTP; without a route, to the service itself."""
        client = peer.identity.namespace if peer.identity is not None else ""
        for stream in self.streams(service, port):
            if stream.applies(service.hostname, port, sni, client):
                return stream.route
        key = (service.key, port)
        if key not in self._defaults:
            self._defaults[key] = default_route(*key)
        return self._defaults[key]

    def _build_table(self, service: Service, port: int) -> RouteTable:
        """Gateway API's routes first, then VirtualServices; without any, the service itself, also
        for the clients that no route is for."""
        ranked: list[RankedRoute] = []
        consumers: set[str] = set()
        for part in self._http_routes:
            found = part.ranked_for(service, port)
            ranked += found
            if found and found[0].rank[0] == CONSUMER:
                consumers.add(part.namespace)
        for_all = any(entry.rank[0] != CONSUMER for entry in ranked)
        routes = [entry.route for entry in sorted(ranked, key=lambda entry: entry.rank)]
        for virtual in self._virtual_services:
            if virtual.applies_to(service.namespace, service.hostname, self.place):
                of_virtual = [route for limit, route in virtual.routes if limit in (None, port)]
                routes += of_virtual
                for_all = for_all or bool(of_virtual)
        if not for_all:
            default = default_route(service.key, port)
            routes.append(not_from(consumers, default) if consumers else default)
        return RouteTable(tuple(self._with_mesh_retries(route) for route in routes))

    def _with_mesh_retries(self, route: Route) -> Route:
        retries = route.retries.within(self._mesh.retries)
        same = retries is route.retries
        return route if same else msgspec.structs.replace(route, retries=retries)


def default_route(service: NamespacedHostname, port: int) -> Route:
    """Where no object says anything: the service's endpoints."""
    backend = Backend(service=service, port=port)
    return Route(name="default", source="default", predicates=(), action=Forward((backend,)))


def _delegates(compiled: Compiled, keys: Collection[str]) -> bool:
    """Does an object leave rules to one of these?"""
    if compiled.config.kind != VIRTUAL_SERVICE:
        return False
    named = (f"{VIRTUAL_SERVICE}/{ns}/{name}" for ns, name in delegates_of(compiled.config))
    return any(key in keys for key in named)


def compile_object(config: ConfigObject, place: Place, find: Find) -> Compiled:
    """Compile one object; whatever is wrong with it becomes a problem, never an exception."""
    part: Part | None
    problems: list[Problem]
    try:
        match config.kind:
            case "VirtualService":
                part, problems = compile_virtual_service(config, place, find)
            case "HTTPRoute":
                part, problems = compile_http_route(config, place)
            case "GRPCRoute":
                part, problems = compile_grpc_route(config, place)
            case "TCPRoute" | "TLSRoute":
                part, problems = compile_gateway_streams(config, place)
            case "DestinationRule":
                part, problems = compile_destination_rule(config, place)
            case "BackendTLSPolicy":
                part, problems = compile_backend_tls(config, place)
            case "XBackendTrafficPolicy":
                part, problems = compile_backend_traffic(config, place)
            case kind if kind == TELEMETRY:
                part, problems = None, []
            case _:
                part, problems = compile_part(config, place)
    except UnusableError as bad:
        policy = config.kind == "AuthorizationPolicy"
        effect = "all requests that it may concern are refused" if policy else "left out"
        part = unreadable_policy(config) if policy else None
        problems = [Problem(config.key, bad.field, bad.reason, effect)]
    return Compiled(config, part, tuple(problems))
