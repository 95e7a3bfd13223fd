"""HTTPRoute's filter ExternalAuth (GEP-1494): a route's own external authorizer."""

from __future__ import annotations

from typing import Any, Final

from waypoint.core.ext_authz import ALL_HEADERS
from waypoint.core.objects import Json, UnusableError, integer, mapping, string, strings
from waypoint.core.providers import Address, BodyInCheck, ExtAuthz
from waypoint.core.routes import Backend

TIMEOUT_S: Final = 10.0
"""The filter has no field for it; who does not answer by then refuses."""
LARGEST_BODY: Final = 64 * 1024 * 1024
"""More is never held for a check."""


def compile_external_auth(raw: Any, field: str, backend: Backend) -> ExtAuthz:
    """The authorizer at ``backend``. It fails closed. Raises UnusableError."""
    spec = mapping(raw, field)
    protocol = string(spec.get("protocol"), f"{field}.protocol")
    if protocol not in ("GRPC", "HTTP"):
        raise UnusableError(f"{field}.protocol", f"{protocol!r} is not GRPC or HTTP")
    if backend.invalid is not None or backend.port is None:
        raise UnusableError(f"{field}.backendRef", "names no port of a Service that can be asked")
    service = backend.service
    grpc, http = (mapping(spec.get(name), f"{field}.{name}") for name in ("grpc", "http"))
    given = _names(http, "allowedResponseHeaders", f"{field}.http")
    return ExtAuthz(
        name=f"{field} at {backend}",
        at=Address(service.hostname, backend.port, service.namespace),
        grpc=protocol == "GRPC",
        timeout_s=TIMEOUT_S,
        body=_body(mapping(spec.get("forwardBody"), f"{field}.forwardBody"), field),
        path_prefix=string(http.get("path"), f"{field}.http.path").rstrip("/"),
        include_headers=_names(http, "allowedHeaders", f"{field}.http"),
        upstream_on_allow=given or ALL_HEADERS,
        told_headers=_names(grpc, "allowedHeaders", f"{field}.grpc"),
    )


def _names(spec: Json, name: str, field: str) -> tuple[str, ...]:
    return tuple(one.lower() for one in strings(spec.get(name), f"{field}.{name}"))


def _body(spec: Json, field: str) -> BodyInCheck | None:
    size = integer(spec.get("maxSize"), f"{field}.forwardBody.maxSize")
    return BodyInCheck(min(size, LARGEST_BODY)) if size else None
