"""GRPCRoute into routes: methods of services are paths."""

from __future__ import annotations

from collections.abc import Callable

from ambient.api.config import ConfigObject
from waypoint.core.gateway_rule import GRPC_FILTERS
from waypoint.core.http_route import HttpRouteRoutes, Match, compile_rules, header_tests
from waypoint.core.message import Request
from waypoint.core.objects import Json, Problem, UnusableError, mapping, string
from waypoint.core.place import Place
from waypoint.core.predicate import Predicate, Test, regex_test


def compile_grpc_route(config: ConfigObject, place: Place) -> tuple[HttpRouteRoutes, list[Problem]]:
    """The object's routes, and what could not be used. Raises UnusableError for a broken whole."""
    return compile_rules(config, place, compile_method_match, GRPC_FILTERS)


def compile_method_match(match: Json, field: str) -> Match:
    """Tests of a GRPCRouteMatch; its rank puts the more specific match first."""
    method = mapping(match.get("method"), f"{field}.method")
    service = string(method.get("service"), f"{field}.method.service")
    name = string(method.get("method"), f"{field}.method.method")
    kind = string(method.get("type"), f"{field}.method.type", "Exact")
    headers = header_tests(match.get("headers"), f"{field}.headers")
    rank, test = _method_test(kind, service, name, f"{field}.method")
    found = [] if test is None else [Predicate("method", _on_path(test))]
    return Match((*found, *headers), (*rank, 1, -len(headers), 0))


def _method_test(
    kind: str, service: str, name: str, field: str
) -> tuple[tuple[int, int], Test | None]:
    if not service and not name:
        return (3, 0), None
    if kind == "RegularExpression":
        pattern = f"/{service or '.+'}/{name or '.+'}"
        return (2, -len(pattern)), regex_test(pattern, field)
    if kind != "Exact":
        raise UnusableError(f"{field}.type", f"unknown kind of match {kind!r}")
    if service and name:
        path = f"/{service}/{name}"
        return (0, -len(path)), lambda value: value == path
    if service:
        below = f"/{service}/"
        return (1, -len(below)), lambda value: value.startswith(below)
    return (2, -len(name)), lambda value: _is_method(value, name)


def _is_method(path: str, name: str) -> bool:
    """Is this ``/any.Service/name``?"""
    service, slash, method = path[1:].partition("/")
    return bool(service) and bool(slash) and method == name


def _on_path(test: Test) -> Callable[[Request], bool]:
    return lambda request: test(request.path)
