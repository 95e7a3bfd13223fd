"""VirtualService into routes."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ambient.api.config import ConfigObject
from waypoint.core.delegate import Find, merged_rules
from waypoint.core.http_match import MESH, compile_match
from waypoint.core.http_rule import RuleReader, broken
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import Place, exported, host_matches
from waypoint.core.routes import Route
from waypoint.core.stream_route import StreamRoute, compile_stream_routes


class VirtualServiceRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled VirtualService. ``routes`` carry the port that they are limited to, or None.

    ``streams`` are those for connections that are not HTTP.
    """

    namespace: str
    hosts: tuple[str, ...]
    routes: tuple[tuple[int | None, Route], ...]
    streams: tuple[StreamRoute, ...] = ()
    visible: bool
    age: tuple[str, str, str]

    def applies_to(self, service_namespace: str, hostname: str, place: Place) -> bool:
        """Does it route a service of this waypoint?"""
        near = self.namespace in (service_namespace, place.namespace)
        return near and self.visible and any(host_matches(h, hostname) for h in self.hosts)


def compile_virtual_service(
    config: ConfigObject, place: Place, find: Find
) -> tuple[VirtualServiceRoutes, list[Problem]]:
    """The object's routes, and what could not be used; ``find`` looks delegates up.

    Raises UnusableError for a broken whole.
    """
    spec = mapping(config.object.get("spec"), "spec")
    gateways = strings(spec.get("gateways"), "spec.gateways") or (MESH,)
    export_to = strings(spec.get("exportTo"), "spec.exportTo")
    hosts = tuple(
        host if host.startswith("*") else place.resolve(host, config.namespace).hostname
        for host in strings(spec.get("hosts"), "spec.hosts")
    )
    rules = _Rules(config, place, find)
    streams: tuple[StreamRoute, ...] = ()
    if MESH in gateways and hosts:
        rules.add_all(sequence(spec.get("http"), "spec.http"))
        streams = compile_stream_routes(spec, rules.reader, config.key)
    compiled = VirtualServiceRoutes(
        namespace=config.namespace,
        hosts=hosts,
        routes=tuple(rules.routes),
        streams=streams,
        visible=exported(export_to, config.namespace, place.namespace),
        age=age(config),
    )
    return compiled, [*rules.reader.problems, *rules.problems]


def age(config: ConfigObject) -> tuple[str, str, str]:
    """A sort key: oldest first, then by name."""
    metadata = config.object.get("metadata")
    created = metadata.get("creationTimestamp") if isinstance(metadata, dict) else None
    return (created if isinstance(created, str) else "", config.namespace, config.name)


class _Rules:
    """Collects the routes of one object."""

    def __init__(self, config: ConfigObject, place: Place, find: Find) -> None:
        self._config = config
        self._place = place
        self._find = find
        self.reader = RuleReader(config.key, config.namespace, place)
        self.routes: list[tuple[int | None, Route]] = []
        self.problems: list[Problem] = []

    def add_all(self, rules: Iterable[object]) -> None:
        """Compile rules up to the one behind which nothing can be reached."""
        for index, item in enumerate(rules):
            field = f"spec.http[{index}]"
            rule = mapping(item, field)
            if rule.get("delegate"):
                done = self._add_delegate(rule, field)
            else:
                done = self._add(rule, field, f"{self._config.key} http[{index}]", self.reader)
            if done:
                return

    def _add_delegate(self, rule: Json, field: str) -> bool:
        try:
            delegate, merged, problems = merged_rules(self._config, rule, field, self._find)
        except UnusableError as bad:
            self.reader.problem(bad, "the rule is left out")
            return False
        self.problems += problems
        reader = RuleReader(delegate.key, delegate.namespace, self._place)
        done = False
        for number, one in merged:
            source = f"{self._config.key} {field.removeprefix('spec.')} -> {delegate.key}"
            done = self._add(one, f"spec.http[{number}]", f"{source} http[{number}]", reader)
            if done:
                break
        self.problems += reader.problems
        return done

    def _add(self, rule: Json, field: str, source: str, reader: RuleReader) -> bool:
        """Compile one rule; True where nothing behind it can be reached."""
        try:
            effects = reader.effects(rule, field)
        except UnusableError as bad:
            reader.problem(bad, "the rule answers 500")
            effects = broken()
        matches = sequence(rule.get("match"), f"{field}.match")
        unconditional = not matches
        for number, raw in enumerate(matches or ({},)):
            match = mapping(raw, f"{field}.match[{number}]")
            try:
                port, predicates = compile_match(match, f"{field}.match[{number}]")
            except UnusableError as bad:
                reader.problem(bad, "this match never applies")
                continue
            names = (string(rule.get("name"), "name"), string(match.get("name"), "name"))
            route = Route(
                name=".".join(name for name in names if name),
                source=source + (f" match[{number}]" if matches else ""),
                predicates=predicates,
                action=effects.action_of(match),
                filters=effects.filters_of(match),
                timeout_s=effects.timeout_s,
                retries=effects.retries,
                fault=effects.fault,
                cors=effects.cors,
                mirrors=effects.mirrors,
            )
            self.routes.append((port, route))
            unconditional = unconditional or (not predicates and port is None)
        return unconditional
