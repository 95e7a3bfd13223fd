"""Gateway API's routes and grants, as far as their references go; rules are the waypoint's."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ambient.kube.core.objects import Camel, Metadata
from ambient.kube.core.resources import GATEWAY_GROUP


class RouteParent(Camel, frozen=True):
    """What a route hangs on: a Gateway, or a Service (mesh routes)."""

    name: str
    kind: str = "Gateway"
    group: str = GATEWAY_GROUP
    namespace: str = ""
    section_name: str | None = None
    port: int | None = None


class FilterTarget(Camel, frozen=True):
    """Whom a filter calls."""

    backend_ref: BackendReference | None = None


class RouteFilter(Camel, frozen=True):
    type: str = ""
    request_mirror: FilterTarget | None = None
    external_auth: FilterTarget | None = None

    @property
    def backend(self) -> BackendReference | None:
        """Whom it calls, besides the route's own backends."""
        target = {"RequestMirror": self.request_mirror, "ExternalAuth": self.external_auth}
        found = target.get(self.type)
        return found.backend_ref if found is not None else None


class BackendReference(Camel, frozen=True):
    name: str
    kind: str = "Service"
    group: str = ""
    namespace: str = ""
    port: int | None = None
    weight: int | None = None
    filters: tuple[RouteFilter, ...] | None = None


class RouteRule(Camel, frozen=True):
    backend_refs: tuple[BackendReference, ...] | None = None
    filters: tuple[RouteFilter, ...] | None = None

    @property
    def references(self) -> Iterator[tuple[str, BackendReference]]:
        """Everything that it leads to, and in which field."""
        for index, backend in enumerate(self.backend_refs or ()):
            yield f"backendRefs[{index}]", backend
        for index, one in enumerate(self.filters or ()):
            if one.backend is not None:
                yield f"filters[{index}]", one.backend


class RouteSpec(Camel, frozen=True):
    parent_refs: tuple[RouteParent, ...] | None = None
    hostnames: tuple[str, ...] | None = None
    rules: tuple[RouteRule, ...] | None = None


class Route(Camel, frozen=True):
    """HTTPRoute, GRPCRoute, TCPRoute or TLSRoute."""

    metadata: Metadata
    spec: RouteSpec = RouteSpec()


class GrantFrom(Camel, frozen=True):
    kind: str
    namespace: str
    group: str = ""


class GrantTo(Camel, frozen=True):
    """``name`` None means every object of the kind."""

    kind: str
    group: str = ""
    name: str | None = None


class GrantSpec(Camel, frozen=True):
    from_: tuple[GrantFrom, ...] = msgspec.field(default=(), name="from")
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(Camel, frozen=True):
    metadata: Metadata
    spec: GrantSpec = GrantSpec()
