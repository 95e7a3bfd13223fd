"""HTTPRoute into routes, with Gateway API's precedence between them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.filters import split_host
from waypoint.core.gateway_parents import Parent, parents_of
from waypoint.core.gateway_rule import BROKEN, HTTP_FILTERS, GatewayRuleReader
from waypoint.core.message import Request
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    mapping,
    sequence,
    string,
    strings,
)
from waypoint.core.place import Place, host_matches
from waypoint.core.predicate import Predicate, Test, path_segments_test, regex_test
from waypoint.core.routes import Route
from waypoint.core.virtual_service import age


class RankedRoute(NamedTuple):
    """A route with its precedence; smaller ranks come first."""

    rank: tuple[Any, ...]
    route: Route


CONSUMER, PRODUCER, OF_GATEWAY = range(3)
"""Where a route stands, which its rank begins with."""


class HttpRouteRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled HTTPRoute or GRPCRoute."""

    namespace: str
    parents: tuple[Parent, ...]
    hostnames: tuple[str, ...]
    routes: tuple[RankedRoute, ...]

    def ranked_for(self, service: Service, port: int) -> list[RankedRoute]:
        """The routes that count for a service port.

        Routes of the service's own namespace hold for every client; those of another namespace
        only for the clients there, and before the others (Gateway API: consumer routes).
        """
        for parent in self.parents:
            if not parent.covers(service, port):
                continue
            if parent.kind != "Gateway":
                if self.namespace == service.namespace:
                    return self._ranked(PRODUCER)
                return self._ranked(CONSUMER, _client_namespace(self.namespace))
            return self._ranked(OF_GATEWAY, *self._hostname_predicates(service.hostname))
        return []

    def _ranked(self, place: int, *predicates: Predicate) -> list[RankedRoute]:
        return [RankedRoute((place, *r.rank), _also(r.route, *predicates)) for r in self.routes]

    def _hostname_predicates(self, hostname: str) -> tuple[Predicate, ...]:
        names = self.hostnames
        if not names or any(host_matches(name, hostname) for name in names):
            return ()

        def passes(request: Request) -> bool:
            host = split_host(request.authority)[0].lower()
            return any(host_matches(name, host) for name in names)

        return (Predicate("hostnames", passes),)


def _client_namespace(namespace: str) -> Predicate:
    return Predicate(
        "client namespace",
        lambda request: (
            request.peer.identity is not None and request.peer.identity.namespace == namespace
        ),
    )


def not_from(namespaces: Collection[str], route: Route) -> Route:
    """A route for the clients that are in none of these namespaces."""

    def passes(request: Request) -> bool:
        identity = request.peer.identity
        return identity is None or identity.namespace not in namespaces

    return _also(route, Predicate("client namespace", passes))


def _also(route: Route, *predicates: Predicate) -> Route:
    return msgspec.structs.replace(route, predicates=(*predicates, *route.predicates))


def compile_http_route(config: ConfigObject, place: Place) -> tuple[HttpRouteRoutes, list[Problem]]:
    """The object's routes, and what could not be used. Raises UnusableError for a broken whole."""
    return compile_rules(config, place, compile_match, HTTP_FILTERS)


class Match(NamedTuple):
    """An entry of ``matches``: tests, precedence, and the path prefix that was matched."""

    predicates: tuple[Predicate, ...]
    rank: tuple[int, ...]
    prefix: str = "/"


def compile_rules(
    config: ConfigObject,
    place: Place,
    read_match: Callable[[Json, str], Match],
    filters: tuple[str, ...],
) -> tuple[HttpRouteRoutes, list[Problem]]:
    """A route for every match of every rule. Raises UnusableError for a broken whole."""
    spec = mapping(config.object.get("spec"), "spec")
    reader = GatewayRuleReader(config, place)
    routes: list[RankedRoute] = []
    for index, raw in enumerate(sequence(spec.get("rules"), "spec.rules")):
        field = f"spec.rules[{index}]"
        rule = mapping(raw, field)
        matches = sequence(rule.get("matches"), f"{field}.matches") or ({},)
        for number, item in enumerate(matches):
            where = f"{field}.matches[{number}]"
            try:
                match = read_match(mapping(item, where), where)
            except UnusableError as bad:
                reader.problem(bad.field, bad.reason, "this match never applies")
                continue
            try:
                effects = reader.effects(rule, field, match.prefix, filters)
            except UnusableError as bad:
                reader.problem(bad.field, bad.reason, "the rule answers 500")
                effects = BROKEN
            route = Route(
                name=f"{config.namespace}.{config.name}.{index}",
                source=f"{config.key} rules[{index}] matches[{number}]",
                predicates=match.predicates,
                action=effects.action,
                filters=effects.filters,
                timeout_s=effects.timeout_s,
                retries=effects.retries,
                cors=effects.cors,
                mirrors=effects.mirrors,
                session=effects.session,
                authorizers=effects.authorizers,
            )
            routes.append(RankedRoute((*match.rank, age(config), index, number), route))
    compiled = HttpRouteRoutes(
        namespace=config.namespace,
        parents=parents_of(spec, config, place),
        hostnames=tuple(h.lower() for h in strings(spec.get("hostnames"), "spec.hostnames")),
        routes=tuple(routes),
    )
    return compiled, reader.problems


def compile_match(match: Json, field: str) -> Match:
    """Tests of an HTTPRouteMatch; its rank puts the more specific match first."""
    path = mapping(match.get("path"), f"{field}.path")
    kind = string(path.get("type"), f"{field}.path.type", "PathPrefix")
    value = string(path.get("value"), f"{field}.path.value", "/")
    found: list[Predicate] = []
    prefix = "/"
    rank_path: tuple[int, int]
    match kind:
        case "Exact":
            found.append(Predicate("path", lambda request: request.path == value))
            rank_path, prefix = (0, -len(value)), value
        case "PathPrefix":
            below = path_segments_test(value)
            if value.rstrip("/"):
                found.append(Predicate("path", lambda request: below(request.path)))
            rank_path, prefix = (1, -len(value.rstrip("/"))), value
        case "RegularExpression":
            regex = regex_test(value, f"{field}.path.value")
            found.append(Predicate("path", lambda request: regex(request.path)))
            rank_path = (2, -len(value))
        case _:
            raise UnusableError(f"{field}.path.type", f"unknown kind of match {kind!r}")
    if not value.rstrip("/") and kind == "PathPrefix":
        rank_path = (3, 0)  # a match without a path comes last
    method = string(match.get("method"), f"{field}.method")
    if method:
        found.append(Predicate("method", lambda request: request.method == method))
    headers = header_tests(match.get("headers"), f"{field}.headers")
    found += headers
    queries = value_tests(match.get("queryParams"), f"{field}.queryParams", lower=False)
    for name, test in queries.items():
        found.append(_query(name, test))
    rank = (*rank_path, 0 if method else 1, -len(headers), -len(queries))
    return Match(tuple(found), rank, prefix)


def header_tests(raw: Any, field: str) -> list[Predicate]:
    """Tests of headers, each name once. Raises UnusableError."""
    return [_header(name, test) for name, test in value_tests(raw, field, lower=True).items()]


def value_tests(raw: Any, field: str, *, lower: bool) -> dict[str, Test]:
    """Name to test; of several entries with one name the first counts."""
    found: dict[str, Test] = {}
    for index, item in enumerate(sequence(raw, field)):
        where = f"{field}[{index}]"
        spec = mapping(item, where)
        name = string(spec.get("name"), f"{where}.name")
        value = string(spec.get("value"), f"{where}.value")
        kind = string(spec.get("type"), f"{where}.type", "Exact")
        if kind not in ("Exact", "RegularExpression"):
            raise UnusableError(f"{where}.type", f"unknown kind of match {kind!r}")
        test = _equals(value) if kind == "Exact" else regex_test(value, f"{where}.value")
        found.setdefault(name.lower() if lower else name, test)
    return found


def _equals(wanted: str) -> Test:
    return lambda value: value == wanted


def _header(name: str, test: Test) -> Predicate:
    def passes(request: Request) -> bool:
        value = request.authority if name == "host" else request.headers.get(name)
        return value is not None and test(value)

    return Predicate(f"headers[{name}]", passes)


def _query(name: str, test: Test) -> Predicate:
    def passes(request: Request) -> bool:
        value = request.query_value(name)
        return value is not None and test(value)

    return Predicate(f"queryParams[{name}]", passes)
