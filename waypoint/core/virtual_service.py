"""VirtualService into routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ambient.api.config import ConfigObject
from waypoint.core.filters import (
    Filter,
    HeaderEdits,
    HeaderFilter,
    PathEdit,
    Redirect,
    UrlRewrite,
)
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
from waypoint.core.place import Place, exported, host_matches
from waypoint.core.predicate import Predicate, Test, string_match
from waypoint.core.routes import Action, Backend, DirectResponse, Forward, Route

MESH = "mesh"
NOT_APPLIED = ("fault", "mirror", "mirrors", "mirrorPercentage", "corsPolicy", "retries")
"""Actions of a rule that this waypoint leaves out; they never widen access."""
REDIRECT_CODES = (301, 302, 303, 307, 308)


class VirtualServiceRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled VirtualService. ``routes`` carry the port that they are limited to, or None."""

    namespace: str
    hosts: tuple[str, ...]
    routes: tuple[tuple[int | None, Route], ...]
    visible: bool
    age: tuple[str, str, str]

    def applies_to(self, service_namespace: str, hostname: str, place: Place) -> bool:
        """Does it route a service of this waypoint?"""
        near = self.namespace in (service_namespace, place.namespace)
        return near and self.visible and any(host_matches(h, hostname) for h in self.hosts)


def compile_virtual_service(
    config: ConfigObject, place: Place
) -> tuple[VirtualServiceRoutes, list[Problem]]:
    """The object's routes, and what could not be used. Raises UnusableError for a broken whole."""
    spec = mapping(config.object.get("spec"), "spec")
    gateways = strings(spec.get("gateways"), "spec.gateways") or (MESH,)
    export_to = strings(spec.get("exportTo"), "spec.exportTo")
    hosts = tuple(
        host if host.startswith("*") else place.resolve(host, config.namespace).hostname
        for host in strings(spec.get("hosts"), "spec.hosts")
    )
    rules = _Rules(config, place)
    if MESH in gateways:
        for index, rule in enumerate(sequence(spec.get("http"), "spec.http")):
            if rules.add(index, mapping(rule, f"spec.http[{index}]")):
                break
    compiled = VirtualServiceRoutes(
        namespace=config.namespace,
        hosts=hosts,
        routes=tuple(rules.routes),
        visible=exported(export_to, config.namespace, place.namespace),
        age=age(config),
    )
    return compiled, rules.problems


def age(config: ConfigObject) -> tuple[str, str, str]:
    """A sort key: oldest first, then by name."""
    metadata = config.object.get("metadata")
    created = metadata.get("creationTimestamp") if isinstance(metadata, dict) else None
    return (created if isinstance(created, str) else "", config.namespace, config.name)


class _Rules:
    """Collects the routes of one object."""

    def __init__(self, config: ConfigObject, place: Place) -> None:
        self._config = config
        self._place = place
        self._id = f"VirtualService/{config.namespace}/{config.name}"
        self.routes: list[tuple[int | None, Route]] = []
        self.problems: list[Problem] = []

    def add(self, index: int, rule: Json) -> bool:
        """Compile one rule; True where nothing behind it can be reached."""
        field = f"spec.http[{index}]"
        for name in NOT_APPLIED:
            if rule.get(name):
                self._problem(f"{field}.{name}", "not supported", "the rule works without it")
        try:
            action_of, filters, timeout_s = self._effects(rule, field)
        except UnusableError as bad:
            self._problem(bad.field, bad.reason, "the rule answers 500")
            broken = DirectResponse(Reply(500, "", "-", "invalid_route"))
            action_of, filters, timeout_s = (lambda _match: broken), lambda _match: (), None
        matches = sequence(rule.get("match"), f"{field}.match")
        unconditional = not matches
        for number, raw in enumerate(matches or ({},)):
            match = mapping(raw, f"{field}.match[{number}]")
            try:
                port, predicates = compile_match(match, f"{field}.match[{number}]")
            except UnusableError as bad:
                self._problem(bad.field, bad.reason, "this match never applies")
                continue
            name = ".".join(
                part
                for part in (string(rule.get("name"), ""), string(match.get("name"), ""))
                if part
            )
            route = Route(
                name=name,
                source=f"{self._id} http[{index}]" + (f" match[{number}]" if matches else ""),
                predicates=predicates,
                action=action_of(match),
                filters=filters(match),
                timeout_s=timeout_s,
            )
            self.routes.append((port, route))
            unconditional = unconditional or (not predicates and port is None)
        return unconditional

    def _problem(self, field: str, reason: str, effect: str) -> None:
        self.problems.append(Problem(self._id, field, reason, effect))

    def _effects(
        self, rule: Json, field: str
    ) -> tuple[Callable[[Json], Action], Callable[[Json], tuple[Filter, ...]], float | None]:
        """What the rule does; rewrites depend on what the match found."""
        redirect = mapping(rule.get("redirect"), f"{field}.redirect")
        direct = mapping(rule.get("directResponse"), f"{field}.directResponse")
        rewrite = mapping(rule.get("rewrite"), f"{field}.rewrite")
        if rule.get("delegate"):
            raise UnusableError(f"{field}.delegate", "not supported")
        if rewrite.get("uriRegexRewrite"):
            raise UnusableError(f"{field}.rewrite.uriRegexRewrite", "not supported")
        if redirect:
            fixed = _redirect(redirect, f"{field}.redirect")
            prefix = string(redirect.get("prefixRewrite"), f"{field}.redirect.prefixRewrite")
            action_of = _redirect_for(fixed, prefix)
        elif direct:
            answer = DirectResponse(_direct(direct, f"{field}.directResponse"))
            action_of = lambda _match: answer  # noqa: E731
        else:
            forward = self._forward(rule, field)
            action_of = lambda _match: forward  # noqa: E731
        headers = header_filter(rule.get("headers"), f"{field}.headers")
        shared: tuple[Filter, ...] = (headers,) if headers else ()
        authority = string(rewrite.get("authority"), f"{field}.rewrite.authority") or None
        uri = string(rewrite.get("uri"), f"{field}.rewrite.uri")

        def filters(match: Json) -> tuple[Filter, ...]:
            if not (authority or uri):
                return shared
            path = PathEdit(replacement=uri, prefix=_matched_prefix(match)) if uri else None
            return (*shared, UrlRewrite(authority=authority, path=path))

        return action_of, filters, duration_s(rule.get("timeout"), f"{field}.timeout")

    def _forward(self, rule: Json, field: str) -> Forward:
        destinations = sequence(rule.get("route"), f"{field}.route")
        backends: list[Backend] = []
        for index, raw in enumerate(destinations):
            where = f"{field}.route[{index}]"
            entry = mapping(raw, where)
            destination = mapping(entry.get("destination"), f"{where}.destination")
            host = string(destination.get("host"), f"{where}.destination.host")
            if not host:
                raise UnusableError(f"{where}.destination.host", "required")
            port = mapping(destination.get("port"), f"{where}.destination.port")
            number = integer(port.get("number"), f"{where}.destination.port.number")
            headers = header_filter(entry.get("headers"), f"{where}.headers")
            weight = integer(entry.get("weight"), f"{where}.weight")
            if len(destinations) > 1 and weight == 0:
                continue
            backends.append(
                Backend(
                    service=self._place.resolve(host, self._config.namespace),
                    subset=string(destination.get("subset"), f"{where}.destination.subset"),
                    port=number or None,
                    weight=weight or 1,
                    filters=(headers,) if headers else (),
                )
            )
        if not backends:
            raise UnusableError(f"{field}.route", "no destination with a weight above 0")
        return Forward(tuple(backends))


def compile_match(match: Json, field: str) -> tuple[int | None, tuple[Predicate, ...]]:
    """The port that an entry is limited to, and its tests."""
    ignore_case = match.get("ignoreUriCase") is True
    found: list[Predicate] = []
    if match.get("sourceLabels"):
        raise UnusableError(f"{field}.sourceLabels", "not tested by waypoints")
    if MESH not in (strings(match.get("gateways"), f"{field}.gateways") or (MESH,)):
        raise UnusableError(f"{field}.gateways", "does not contain mesh")
    uri = string_match(match.get("uri"), f"{field}.uri", ignore_case=ignore_case)
    if uri and match.get("uri") != {"prefix": "/"} and match.get("uri") != {"regex": ".*"}:
        found.append(Predicate("uri", lambda request: uri(request.path)))
    _add_simple(found, match, field)
    namespace = string(match.get("sourceNamespace"), f"{field}.sourceNamespace")
    if namespace:
        found.append(
            Predicate(
                "sourceNamespace",
                lambda request: (
                    request.peer.identity is not None
                    and request.peer.identity.namespace == namespace
                ),
            )
        )
    for key, raw in mapping(match.get("headers"), f"{field}.headers").items():
        found.append(_header(key, raw, f"{field}.headers"))
    for key, raw in mapping(match.get("withoutHeaders"), f"{field}.withoutHeaders").items():
        found.append(_without_header(key, raw, f"{field}.withoutHeaders"))
    for key, raw in mapping(match.get("queryParams"), f"{field}.queryParams").items():
        found.append(_query(key, raw, f"{field}.queryParams"))
    port = integer(match.get("port"), f"{field}.port")
    return port or None, tuple(found)


def _add_simple(found: list[Predicate], match: Json, field: str) -> None:
    readers: dict[str, Callable[[Request], str]] = {
        "method": lambda request: request.method,
        "scheme": lambda request: request.scheme,
        "authority": lambda request: request.authority,
    }
    for name, read in readers.items():
        test = string_match(match.get(name), f"{field}.{name}")
        if test is not None:
            found.append(Predicate(name, _reading(read, test)))


def _reading(read: Callable[[Request], str], test: Test) -> Callable[[Request], bool]:
    return lambda request: test(read(request))


def header_value(request: Request, name: str) -> str | None:
    """A header as routes compare it, with HTTP/2's pseudo-headers."""
    match name:
        case ":method":
            return request.method
        case ":authority" | "host":
            return request.authority
        case ":path":
            return request.target
        case ":scheme":
            return request.scheme
        case _:
            return request.headers.get(name)


def _header(key: str, raw: Any, field: str) -> Predicate:
    if key.startswith("@"):
        raise UnusableError(f"{field}[{key}]", "claims of a token are not available")
    name = key.lower()
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = header_value(request, name)
        return value is not None and (test is None or test(value))

    return Predicate(f"headers[{name}]", passes)


def _without_header(key: str, raw: Any, field: str) -> Predicate:
    if key.startswith("@"):
        raise UnusableError(f"{field}[{key}]", "claims of a token are not available")
    name = key.lower()
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = header_value(request, name)
        return value is None if test is None else not test(value or "")

    return Predicate(f"withoutHeaders[{name}]", passes)


def _query(key: str, raw: Any, field: str) -> Predicate:
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = request.query_value(key)
        return value is not None and (test is None or test(value))

    return Predicate(f"queryParams[{key}]", passes)


def header_filter(raw: Any, field: str) -> HeaderFilter | None:
    """``headers.request`` and ``headers.response`` with set, add and remove."""
    spec = mapping(raw, field)
    if not spec:
        return None
    request, authority = _edits(spec.get("request"), f"{field}.request")
    response, _ = _edits(spec.get("response"), f"{field}.response")
    return HeaderFilter(request=request, response=response, authority=authority)


def _edits(raw: Any, field: str) -> tuple[HeaderEdits, str | None]:
    spec = mapping(raw, field)
    authority: str | None = None
    lists: dict[str, list[tuple[str, str]]] = {"add": [], "set": []}
    for kind, pairs in lists.items():  # set comes last, so that its Host wins
        for key, value in sorted(mapping(spec.get(kind), f"{field}.{kind}").items()):
            text = string(value, f"{field}.{kind}[{key}]").replace("%%", "%")
            if key.lower() in (":authority", "host"):
                authority = text
            elif not key.startswith(":"):
                pairs.append((key.lower(), text))
    removed = strings(spec.get("remove"), f"{field}.remove")
    edits = HeaderEdits(
        put=tuple(lists["set"]),
        add=tuple(lists["add"]),
        remove=tuple(name.lower() for name in removed),
    )
    return edits, authority


def _matched_prefix(match: Json) -> str | None:
    """What a rewrite of the path replaces: the matched text, or None for the whole path."""
    uri = match.get("uri")
    if not isinstance(uri, dict) or "regex" in uri:
        return None if isinstance(uri, dict) else "/"
    if "exact" in uri:
        return None
    return str(uri.get("prefix", "/"))


def _redirect(spec: Json, field: str) -> Redirect:
    status = integer(spec.get("redirectCode"), f"{field}.redirectCode") or 301
    if status not in REDIRECT_CODES:
        raise UnusableError(f"{field}.redirectCode", f"{status} is not one of {REDIRECT_CODES}")
    uri = string(spec.get("uri"), f"{field}.uri")
    return Redirect(
        status=status,
        scheme=string(spec.get("scheme"), f"{field}.scheme") or None,
        host=string(spec.get("authority"), f"{field}.authority") or None,
        port=integer(spec.get("port"), f"{field}.port") or None,
        request_port=spec.get("derivePort") == "FROM_REQUEST_PORT",
        drop_port=spec.get("derivePort") == "FROM_PROTOCOL_DEFAULT",
        path=PathEdit(replacement=uri) if uri else None,
    )


def _redirect_for(fixed: Redirect, prefix: str) -> Callable[[Json], Action]:
    def action(match: Json) -> Action:
        if not prefix:
            return fixed
        edit = PathEdit(replacement=prefix, prefix=_matched_prefix(match))
        return msgspec.structs.replace(fixed, path=edit)

    return action


def _direct(spec: Json, field: str) -> Reply:
    status = integer(spec.get("status"), f"{field}.status")
    if not 200 <= status <= 599:
        raise UnusableError(f"{field}.status", f"{status} is not a final HTTP status")
    body = mapping(spec.get("body"), f"{field}.body")
    text = string(body.get("string"), f"{field}.body.string")
    return Reply(status, text, "-", "direct_response")
