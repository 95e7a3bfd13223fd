"""TCPRoute and TLSRoute: where connections go that are not HTTP."""

from __future__ import annotations

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.gateway_parents import Parent, parents_of
from waypoint.core.gateway_rule import GatewayRuleReader
from waypoint.core.objects import Problem, UnusableError, mapping, sequence
from waypoint.core.place import Place
from waypoint.core.routes import Forward
from waypoint.core.stream_route import TCP, TLS, StreamRoute
from waypoint.core.virtual_service import age


class GatewayStreams(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled TCPRoute or TLSRoute."""

    namespace: str
    parents: tuple[Parent, ...]
    streams: tuple[StreamRoute, ...]
    age: tuple[str, str, str]

    def streams_for(self, service: Service, port: int) -> tuple[StreamRoute, ...]:
        """The routes that count for a service port; those of another namespace than the
        service's only for clients there, and before the others (Gateway API: consumer routes).
        """
        covering = [parent for parent in self.parents if parent.covers(service, port)]
        if not covering:
            return ()
        if covering[0].kind == "Gateway" or self.namespace == service.namespace:
            return self.streams
        own = self.namespace
        return tuple(msgspec.structs.replace(one, of=own) for one in self.streams)


def compile_gateway_streams(
    config: ConfigObject, place: Place
) -> tuple[GatewayStreams, list[Problem]]:
    """The object's routes, and what could not be used. Raises UnusableError for a broken whole.

    A TLSRoute of a service takes all its connections: clients call the service, whatever server
    name they say (Istio).
    """
    spec = mapping(config.object.get("spec"), "spec")
    reader = GatewayRuleReader(config, place)
    found: list[StreamRoute] = []
    for index, raw in enumerate(sequence(spec.get("rules"), "spec.rules")):
        field = f"spec.rules[{index}]"
        try:
            backends = reader.backends(
                mapping(raw, field).get("backendRefs"), f"{field}.backendRefs"
            )
        except UnusableError as bad:
            reader.problem(bad.field, bad.reason, "the rule closes connections")
            backends = ()
        found.append(
            StreamRoute(
                kind=TLS if config.kind == "TLSRoute" else TCP,
                source=f"{config.key} rules[{index}]",
                forward=Forward(backends) if backends else None,
            )
        )
    compiled = GatewayStreams(
        namespace=config.namespace,
        parents=parents_of(spec, config, place),
        streams=tuple(found),
        age=age(config),
    )
    return compiled, reader.problems
