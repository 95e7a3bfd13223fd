"""HTTPRoute into routes, with Gateway API's precedence between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname
from waypoint.core.filters import (
    Filter,
    HeaderEdits,
    HeaderFilter,
    PathEdit,
    Redirect,
    UrlRewrite,
    split_host,
)
from waypoint.core.local_reply import BACKEND_INVALID
from waypoint.core.message import Reply, Request
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    duration_s,
    integer,
    mapping,
    sequence,
    string,
    strings,
)
from waypoint.core.place import Place, host_matches
from waypoint.core.predicate import Predicate, Test, path_segments_test, regex_test
from waypoint.core.routes import Action, Backend, DirectResponse, Forward, Route
from waypoint.core.virtual_service import age

GATEWAY_GROUP = "gateway.networking.k8s.io"
MISSING_STATUS = 500
"""Gateway API: a reference that leads nowhere answers 500."""
NOT_APPLIED = frozenset({"RequestMirror", "CORS"})
"""Filters that are left out; the rule works without them."""


class Parent(NamedTuple):
    """What a route hangs on. ``service`` None is the waypoint's own Gateway."""

    service: NamespacedHostname | None
    port: int | None


class RankedRoute(NamedTuple):
    """A route with its precedence; smaller ranks come first."""

    rank: tuple[Any, ...]
    route: Route


class HttpRouteRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled HTTPRoute."""

    namespace: str
    parents: tuple[Parent, ...]
    hostnames: tuple[str, ...]
    routes: tuple[RankedRoute, ...]

    def ranked_for(self, service: NamespacedHostname, port: int) -> list[RankedRoute]:
        """The routes that count for a service port.

        Routes of the service's own namespace hold for every client; those of another namespace
        only for the clients there, and before the others (Gateway API: consumer routes).
        """
        for parent in self.parents:
            if parent.port not in (None, port):
                continue
            if parent.service == service:
                if self.namespace == service.namespace:
                    return [RankedRoute((1, *r.rank), r.route) for r in self.routes]
                own = _client_namespace(self.namespace)
                return [RankedRoute((0, *r.rank), _also(r.route, own)) for r in self.routes]
            if parent.service is None:
                extra = self._hostname_predicates(service.hostname)
                return [RankedRoute((2, *r.rank), _also(r.route, *extra)) for r in self.routes]
        return []

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


def _also(route: Route, *predicates: Predicate) -> Route:
    return msgspec.structs.replace(route, predicates=(*predicates, *route.predicates))


def compile_http_route(config: ConfigObject, place: Place) -> tuple[HttpRouteRoutes, list[Problem]]:
    """The object's routes, and what could not be used. Raises UnusableError for a broken whole."""
    spec = mapping(config.object.get("spec"), "spec")
    rules = _Rules(config, place)
    for index, raw in enumerate(sequence(spec.get("rules"), "spec.rules")):
        rules.add(index, mapping(raw, f"spec.rules[{index}]"))
    compiled = HttpRouteRoutes(
        namespace=config.namespace,
        parents=_parents(spec, config, place),
        hostnames=tuple(h.lower() for h in strings(spec.get("hostnames"), "spec.hostnames")),
        routes=tuple(rules.routes),
    )
    return compiled, rules.problems


def _parents(spec: Json, config: ConfigObject, place: Place) -> tuple[Parent, ...]:
    found: list[Parent] = []
    for index, raw in enumerate(sequence(spec.get("parentRefs"), "spec.parentRefs")):
        field = f"spec.parentRefs[{index}]"
        ref = mapping(raw, field)
        kind = string(ref.get("kind"), f"{field}.kind", "Gateway")
        group = string(ref.get("group"), f"{field}.group", GATEWAY_GROUP)
        name = string(ref.get("name"), f"{field}.name")
        namespace = string(ref.get("namespace"), f"{field}.namespace") or config.namespace
        port = integer(ref.get("port"), f"{field}.port") or None
        if kind == "Service" and group in ("", "core"):
            host = place.service_host(name, namespace)
            found.append(Parent(NamespacedHostname(namespace, host), port))
        elif kind == "Gateway" and (namespace, name) == (place.namespace, place.gateway):
            found.append(Parent(None, None))
    return tuple(found)


class _Match(NamedTuple):
    """An entry of ``matches``: tests, precedence, and the path prefix that was matched."""

    predicates: tuple[Predicate, ...]
    rank: tuple[int, ...]
    prefix: str


class _Rules:
    """Collects the routes of one object."""

    def __init__(self, config: ConfigObject, place: Place) -> None:
        self._config = config
        self._place = place
        self._id = f"HTTPRoute/{config.namespace}/{config.name}"
        self.routes: list[RankedRoute] = []
        self.problems: list[Problem] = []

    def add(self, index: int, rule: Json) -> None:
        """Compile one rule into a route per match."""
        field = f"spec.rules[{index}]"
        for number, raw in enumerate(sequence(rule.get("matches"), f"{field}.matches") or ({},)):
            where = f"{field}.matches[{number}]"
            try:
                match = compile_match(mapping(raw, where), where)
            except UnusableError as bad:
                self._problem(bad.field, bad.reason, "this match never applies")
                continue
            try:
                action, filters, timeout_s = self._effects(rule, field, match.prefix)
            except UnusableError as bad:
                self._problem(bad.field, bad.reason, "the rule answers 500")
                broken = Reply(MISSING_STATUS, "", "-", "invalid_route")
                action, filters, timeout_s = DirectResponse(broken), (), None
            route = Route(
                name=f"{self._config.namespace}.{self._config.name}.{index}",
                source=f"{self._id} rules[{index}] matches[{number}]",
                predicates=match.predicates,
                action=action,
                filters=filters,
                timeout_s=timeout_s,
            )
            rank = (*match.rank, age(self._config), index, number)
            self.routes.append(RankedRoute(rank, route))

    def _problem(self, field: str, reason: str, effect: str) -> None:
        problem = Problem(self._id, field, reason, effect)
        if problem not in self.problems:  # each rule is compiled once for every match
            self.problems.append(problem)

    def _effects(
        self, rule: Json, field: str, prefix: str
    ) -> tuple[Action, tuple[Filter, ...], float | None]:
        filters, redirect = self._filters(rule.get("filters"), f"{field}.filters", prefix)
        timeouts = mapping(rule.get("timeouts"), f"{field}.timeouts")
        timeout_s = duration_s(timeouts.get("request"), f"{field}.timeouts.request")
        per_try_s = duration_s(timeouts.get("backendRequest"), f"{field}.timeouts.backendRequest")
        if redirect is not None:
            return redirect, filters, timeout_s
        backends = tuple(
            backend
            for number, raw in enumerate(sequence(rule.get("backendRefs"), f"{field}.backendRefs"))
            if (backend := self._backend(raw, f"{field}.backendRefs[{number}]", prefix)).weight
        )
        if not backends:
            return DirectResponse(BACKEND_INVALID), filters, timeout_s
        limits = [limit for limit in (timeout_s, per_try_s) if limit is not None]
        return Forward(backends), filters, min(limits, default=None)

    def _backend(self, raw: Any, field: str, prefix: str) -> Backend:
        ref = mapping(raw, field)
        weight = ref.get("weight")
        number = 1 if weight is None else integer(weight, f"{field}.weight")
        kind = string(ref.get("kind"), f"{field}.kind", "Service")
        group = string(ref.get("group"), f"{field}.group")
        name = string(ref.get("name"), f"{field}.name")
        namespace = string(ref.get("namespace"), f"{field}.namespace") or self._config.namespace
        port = integer(ref.get("port"), f"{field}.port") or None
        filters, redirect = self._filters(ref.get("filters"), f"{field}.filters", prefix)
        invalid = None
        host = self._place.service_host(name, namespace)
        if kind == "Hostname" and group == "networking.istio.io":
            host = name
        elif kind != "Service" or group not in ("", "core"):
            self._problem(f"{field}.kind", f"{group}/{kind} is not supported", "its share gets 500")
            invalid = BACKEND_INVALID
        if redirect is not None:
            raise UnusableError(f"{field}.filters", "RequestRedirect does not belong to a backend")
        return Backend(
            service=NamespacedHostname(namespace, host),
            port=port,
            weight=number,
            filters=filters,
            invalid=invalid,
            missing_status=MISSING_STATUS,
        )

    def _filters(
        self, raw: Any, field: str, prefix: str
    ) -> tuple[tuple[Filter, ...], Redirect | None]:
        found: list[Filter] = []
        redirect: Redirect | None = None
        for index, item in enumerate(sequence(raw, field)):
            where = f"{field}[{index}]"
            spec = mapping(item, where)
            kind = string(spec.get("type"), f"{where}.type")
            match kind:
                case "RequestHeaderModifier":
                    edits, authority = _edits(spec.get("requestHeaderModifier"), where)
                    found.append(HeaderFilter(request=edits, authority=authority))
                case "ResponseHeaderModifier":
                    edits, _ = _edits(spec.get("responseHeaderModifier"), where)
                    found.append(HeaderFilter(response=edits))
                case "URLRewrite":
                    found.append(_rewrite(spec.get("urlRewrite"), where, prefix))
                case "RequestRedirect":
                    redirect = _redirect(spec.get("requestRedirect"), where, prefix)
                case _ if kind in NOT_APPLIED:
                    self._problem(where, f"{kind} is not supported", "the rule works without it")
                case _:
                    raise UnusableError(where, f"unknown filter {kind!r}")
        return tuple(found), redirect


def compile_match(match: Json, field: str) -> _Match:
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
    headers = _value_tests(match.get("headers"), f"{field}.headers", lower=True)
    for name, test in headers.items():
        found.append(_header(name, test))
    queries = _value_tests(match.get("queryParams"), f"{field}.queryParams", lower=False)
    for name, test in queries.items():
        found.append(_query(name, test))
    rank = (*rank_path, 0 if method else 1, -len(headers), -len(queries))
    return _Match(tuple(found), rank, prefix)


def _value_tests(raw: Any, field: str, *, lower: bool) -> dict[str, Test]:
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


def _edits(raw: Any, field: str) -> tuple[HeaderEdits, str | None]:
    spec = mapping(raw, field)
    authority: str | None = None
    pairs: dict[str, list[tuple[str, str]]] = {"set": [], "add": []}
    for kind, found in pairs.items():
        for index, item in enumerate(sequence(spec.get(kind), f"{field}.{kind}")):
            entry = mapping(item, f"{field}.{kind}[{index}]")
            name = string(entry.get("name"), f"{field}.{kind}[{index}].name").lower()
            value = string(entry.get("value"), f"{field}.{kind}[{index}].value")
            if name == "host":
                authority = value
            else:
                found.append((name, value))
    removed = tuple(n.lower() for n in strings(spec.get("remove"), f"{field}.remove"))
    return HeaderEdits(put=tuple(pairs["set"]), add=tuple(pairs["add"]), remove=removed), authority


def _path_edit(raw: Any, field: str, prefix: str) -> PathEdit | None:
    spec = mapping(raw, field)
    match string(spec.get("type"), f"{field}.type"):
        case "":
            return None
        case "ReplaceFullPath":
            return PathEdit(replacement=string(spec.get("replaceFullPath"), field))
        case "ReplacePrefixMatch":
            value = string(spec.get("replacePrefixMatch"), field)
            return PathEdit(replacement=value, prefix=prefix, segments=True)
        case other:
            raise UnusableError(f"{field}.type", f"unknown kind of edit {other!r}")


def _rewrite(raw: Any, field: str, prefix: str) -> UrlRewrite:
    spec = mapping(raw, field)
    return UrlRewrite(
        authority=string(spec.get("hostname"), f"{field}.hostname") or None,
        path=_path_edit(spec.get("path"), f"{field}.path", prefix),
    )


def _redirect(raw: Any, field: str, prefix: str) -> Redirect:
    spec = mapping(raw, field)
    scheme = string(spec.get("scheme"), f"{field}.scheme") or None
    return Redirect(
        status=integer(spec.get("statusCode"), f"{field}.statusCode") or 302,
        scheme=scheme,
        host=string(spec.get("hostname"), f"{field}.hostname") or None,
        port=integer(spec.get("port"), f"{field}.port") or None,
        drop_port=scheme is not None,
        request_port=scheme is None,
        path=_path_edit(spec.get("path"), f"{field}.path", prefix),
    )
