"""The objects that guard and watch traffic: what of them holds for which destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname, Service
from waypoint.core import envoy_filter, mesh_settings, request_authentication
from waypoint.core.authz import PolicySet, select
from waypoint.core.authz_rules import Policy, compile_policy
from waypoint.core.envoy_filter import Limits, RateLimits
from waypoint.core.mesh_settings import MeshSettings, compile_mesh
from waypoint.core.objects import Problem
from waypoint.core.place import Place
from waypoint.core.request_authentication import Authentication, KeySource, RequestAuthentication

PolicyPart = Policy | RequestAuthentication | RateLimits | MeshSettings
POLICY_KINDS: Final = (
    "AuthorizationPolicy",
    "RequestAuthentication",
    "EnvoyFilter",
    mesh_settings.KIND,
)
T = TypeVar("T")


def compile_part(config: ConfigObject, place: Place) -> tuple[PolicyPart, list[Problem]]:
    """One object of these kinds. Raises UnusableError."""
    match config.kind:
        case "RequestAuthentication":
            return request_authentication.compile_authentication(config, place)
        case "EnvoyFilter":
            return envoy_filter.compile_envoy_filter(config)
        case mesh_settings.KIND:
            return compile_mesh(config)
        case _:
            return compile_policy(config, place)


_NO_TOKENS: Final = Authentication()
_NO_LIMITS: Final = Limits()


class Policies:
    """All of them. Immutable but for its caches."""

    def __init__(self, parts: Iterable[object], place: Place) -> None:
        found = list(parts)
        self._place = place
        self._authorization = [one for one in found if isinstance(one, Policy)]
        self._tokens = [one for one in found if isinstance(one, RequestAuthentication)]
        self.mesh = next((one for one in found if isinstance(one, MeshSettings)), MeshSettings())
        self._authorizers = self.mesh.authorizers
        self._rates = [one for one in found if isinstance(one, RateLimits)]
        self._limits: dict[NamespacedHostname | None, Limits] = {}
        self._sets: dict[NamespacedHostname | None, PolicySet] = {}
        self._authentications: dict[NamespacedHostname | None, Authentication] = {}

    @property
    def key_sources(self) -> Iterator[KeySource]:
        """Where keys of tokens come from."""
        rules = (rule for one in self._tokens for rule in one.providers)
        return (rule.source for rule in rules if rule.source is not None)

    def authorization(self, service: Service | None) -> PolicySet:
        """Who may call a service; None means a pod's own address."""
        key = service.key if service is not None else None
        found = self._sets.get(key)
        if found is None:
            found = select(self._authorization, service, self._place, self._authorizers)
            self._sets[key] = found
        return found

    def authentication(self, service: Service | None) -> Authentication:
        """Which tokens requests for it may carry."""
        if not self._tokens:
            return _NO_TOKENS
        return _cached(
            self._authentications,
            service,
            lambda: request_authentication.select(self._tokens, service, self._place),
        )

    def limits(self, service: Service | None) -> Limits:
        """How often it may be called."""
        if not self._rates:
            return _NO_LIMITS
        return _cached(
            self._limits,
            service,
            lambda: envoy_filter.select(self._rates, service, self._place),
        )


def _cached(
    cache: dict[NamespacedHostname | None, T], service: Service | None, make: Callable[[], T]
) -> T:
    key = service.key if service is not None else None
    found = cache.get(key)
    if found is None:
        found = cache[key] = make()
    return found
