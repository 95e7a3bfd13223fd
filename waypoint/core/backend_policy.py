"""BackendTLSPolicy and XBackendTrafficPolicy: how a Service is called where no DestinationRule
says so.

Which targets a policy holds for is the control plane's decision; it also turns the names of ports
into numbers (``port`` of a target).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.credential import CONFIG_MAP
from ambient.api.service import Service
from waypoint.core.connection_pool import RetryBudget, compile_retry_constraint
from waypoint.core.gateway_parents import Parent
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    integer,
    mapping,
    sequence,
    string,
)
from waypoint.core.place import Place
from waypoint.core.session import Session, compile_session
from waypoint.core.tls_settings import blocked
from waypoint.core.traffic_policy import ClusterSettings
from waypoint.core.virtual_service import age

SYSTEM: Final = "System"
REFUSED: Final = "no connection to the target is made"
T = TypeVar("T")


class BackendPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled policy; each part is None where it says nothing. ``tls`` is written as in a
    DestinationRule."""

    targets: tuple[Parent, ...]
    age: tuple[str, str, str]
    tls: Json | None = None
    retry_budget: RetryBudget | None = None
    session: Session | None = None

    def target(self, service: Service, port: int) -> Parent | None:
        """The target that a service's port is, the narrowest of them."""
        found = [one for one in self.targets if one.covers(service, port)]
        return max(found, key=lambda one: one.port is not None, default=None)


def applied(
    policies: Iterable[BackendPolicy], service: Service, port: int, below: ClusterSettings
) -> ClusterSettings:
    """The settings with what the policies add; what a DestinationRule says comes first.

    A policy for the port comes before one for the whole service, then the oldest counts.
    """
    found = [(one, target) for one in policies if (target := one.target(service, port))]
    found.sort(key=lambda pair: (pair[1].port is None, pair[0].age))
    ordered = [one for one, _ in found]
    if not ordered:
        return below
    # The mesh's own TLS is around the tunnel: it says nothing about what is inside.
    plain = below.tls is None or below.tls.get("mode") == "ISTIO_MUTUAL"
    return msgspec.structs.replace(
        below,
        tls=(_first(one.tls for one in ordered) or below.tls) if plain else below.tls,
        retry_budget=below.retry_budget or _first(one.retry_budget for one in ordered),
        session=_first(one.session for one in ordered),
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def compile_backend_tls(config: ConfigObject, place: Place) -> tuple[BackendPolicy, list[Problem]]:
    """A BackendTLSPolicy. Raises UnusableError where it names no targets that can be read."""
    spec = mapping(config.object.get("spec"), "spec")
    problems: list[Problem] = []
    try:
        tls = _tls(mapping(spec.get("validation"), "spec.validation"), config.namespace)
    except UnusableError as bad:
        problems.append(Problem(config.key, bad.field, bad.reason, REFUSED))
        tls = blocked(f"BackendTLSPolicy {config.namespace}/{config.name}: {bad}")
    return BackendPolicy(targets=_targets(spec, config, place), age=age(config), tls=tls), problems


def compile_backend_traffic(
    config: ConfigObject, place: Place
) -> tuple[BackendPolicy, list[Problem]]:
    """An XBackendTrafficPolicy. Raises UnusableError."""
    spec = mapping(config.object.get("spec"), "spec")
    policy = BackendPolicy(
        targets=_targets(spec, config, place),
        age=age(config),
        retry_budget=compile_retry_constraint(spec.get("retryConstraint"), "spec.retryConstraint"),
        session=compile_session(spec.get("sessionPersistence"), "spec.sessionPersistence"),
    )
    return policy, []


def _targets(spec: Json, config: ConfigObject, place: Place) -> tuple[Parent, ...]:
    found: list[Parent] = []
    for index, raw in enumerate(sequence(spec.get("targetRefs"), "spec.targetRefs")):
        field = f"spec.targetRefs[{index}]"
        ref = mapping(raw, field)
        name = string(ref.get("name"), f"{field}.name")
        found.append(
            Parent(
                string(ref.get("kind"), f"{field}.kind"),
                config.namespace,
                name,
                place.service_host(name, config.namespace),
                integer(ref.get("port"), f"{field}.port") or None,
            )
        )
    return tuple(found)


def _tls(validation: Json, namespace: str) -> Json:
    """As ``tls`` of a DestinationRule. Raises UnusableError where nobody can be believed."""
    field = "spec.validation"
    hostname = string(validation.get("hostname"), f"{field}.hostname")
    if not hostname:
        raise UnusableError(f"{field}.hostname", "required")
    refs = sequence(validation.get("caCertificateRefs"), f"{field}.caCertificateRefs")
    names = validation.get("subjectAltNames")
    tls: dict[str, Any] = {
        "mode": "SIMPLE",
        "sni": hostname,
        "subjectAltNames": _names(names, f"{field}.subjectAltNames"),
    }
    if refs:
        known = [mapping(one, f"{field}.caCertificateRefs") for one in refs]
        maps = [one for one in known if one.get("kind") == "ConfigMap"]
        if not maps:
            raise UnusableError(f"{field}.caCertificateRefs", "names no ConfigMap")
        return tls | {
            "credentialName": ",".join(f"{CONFIG_MAP}{namespace}/{one.get('name')}" for one in maps)
        }
    well_known = string(validation.get("wellKnownCACertificates"), f"{field}.well…")
    if well_known != SYSTEM:
        raise UnusableError(
            f"{field}.wellKnownCACertificates", f"{well_known!r} is unknown, only {SYSTEM} is"
        )
    return tls


def _names(raw: Any, field: str) -> list[str]:
    found: list[str] = []
    for index, item in enumerate(sequence(raw, field)):
        where = f"{field}[{index}]"
        spec = mapping(item, where)
        kind = string(spec.get("type"), f"{where}.type")
        if kind not in ("Hostname", "URI"):
            raise UnusableError(f"{where}.type", f"{kind!r} is not Hostname or URI")
        name = string(spec.get("hostname" if kind == "Hostname" else "uri"), where)
        if not name or (kind == "URI") != ("://" in name):
            raise UnusableError(where, f"{name!r} is no {kind}")
        found.append(name)
    return found
