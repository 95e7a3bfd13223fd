"""What a route table is: routes in order, each with its tests, its filters and its action."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ambient.api.service import NamespacedHostname
from waypoint.core.cors import CorsPolicy
from waypoint.core.fault import Fault
from waypoint.core.filters import Filter, Redirect
from waypoint.core.message import Reply, Request
from waypoint.core.predicate import Predicate, first_failing
from waypoint.core.providers import ExtAuthz
from waypoint.core.retry_policy import DEFAULT, RetryPolicy
from waypoint.core.session import Session


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One destination of a route.

    ``port`` None means the service's only port, else the port that was called. ``invalid`` is set
    where the reference cannot work: its share of the traffic gets that answer.
    ``missing_status`` answers when the service or subset is unknown.
    """

    service: NamespacedHostname
    subset: str = ""
    port: int | None = None
    weight: int = 1
    filters: tuple[Filter, ...] = ()
    invalid: Reply | None = None
    missing_status: int = 503

    def __str__(self) -> str:
        subset = f" subset {self.subset}" if self.subset else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.service.hostname}{port}{subset}"


class Forward(msgspec.Struct, frozen=True):
    """Send the request to one of the backends, chosen by weight."""

    backends: tuple[Backend, ...]

    def choose(self, draw: float) -> Backend:
        """The backend for a draw in [0, 1); weights are relative, the order is the object's."""
        if len(self.backends) == 1:
            return self.backends[0]
        point = draw * sum(backend.weight for backend in self.backends)
        for backend in self.backends:
            point -= backend.weight
            if point < 0:
                return backend
        return self.backends[-1]

    def share(self, backend: Backend) -> float:
        """The backend's part of the traffic, from 0 to 1."""
        return backend.weight / sum(other.weight for other in self.backends)


class Mirror(msgspec.Struct, frozen=True):
    """Who else gets a copy, of which part (0 to 1) of the requests."""

    backend: Backend
    share: float = 1.0


class DirectResponse(msgspec.Struct, frozen=True):
    """Answer without asking anybody."""

    reply: Reply


Action = Forward | Redirect | DirectResponse


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way through the table; it applies where all its tests pass.

    ``source`` names the object and rule that it comes from. ``timeout_s`` covers the whole
    exchange from the end of the request; None is no limit.
    """

    name: str
    source: str
    predicates: tuple[Predicate, ...]
    action: Action
    filters: tuple[Filter, ...] = ()
    timeout_s: float | None = None
    retries: RetryPolicy = DEFAULT
    fault: Fault | None = None
    cors: CorsPolicy | None = None
    mirrors: tuple[Mirror, ...] = ()
    session: Session | None = None
    authorizers: tuple[ExtAuthz, ...] = ()
    """Who has to agree to a request, in order (HTTPRoute's ExternalAuth)."""


class Miss(NamedTuple):
    """A route that did not apply, and the first of its tests that failed."""

    route: Route
    field: str


class RouteTable(msgspec.Struct, frozen=True):
    """The routes of one service port. The first route that applies wins."""

    routes: tuple[Route, ...]

    @property
    def asks(self) -> bool:
        """Does any route ask an authorizer?"""
        return any(route.authorizers for route in self.routes)

    def select(self, request: Request) -> Route | None:
        """The route for a request, or None (404)."""
        for route in self.routes:
            if first_failing(route.predicates, request) is None:
                return route
        return None

    def misses(self, request: Request) -> tuple[Miss, ...]:
        """The routes in front of the selected one, and why each did not apply."""
        found: list[Miss] = []
        for route in self.routes:
            failing = first_failing(route.predicates, request)
            if failing is None:
                break
            found.append(Miss(route, failing.field))
        return tuple(found)
