"""What an operator may ask the waypoint, on localhost; only log levels can be changed."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from ambient.identity.core.svid import Svid
from ambient.identity.io.cert_store import CertStore
from ambient.state.core.mesh import MeshState
from ambient.telemetry.io.http import Request, Response, Routes
from waypoint.core.routes import Forward, Route
from waypoint.io.admin_pages import add_pages
from waypoint.io.credentials import Credentials
from waypoint.io.service import Service
from waypoint.settings import Settings

JSON = "application/json"


class Held(NamedTuple):
    """What the control plane and the CA have told, besides objects."""

    state: MeshState
    certs: CertStore
    credentials: Credentials


def admin_routes(service: Service, held: Held, settings: Settings) -> Routes:
    """All pages, and the index."""
    routes = Routes()

    async def config_dump(_: Request) -> Response:
        dump = {
            "settings": msgspec.to_builtins(settings),
            "identity": str(settings.identity),
            "certificates": _certificates(held.certs),
            "credentials": held.credentials.page(),
            "objects": [msgspec.to_builtins(c.config) for c in service.program.objects.values()],
            "problems": [
                problem._asdict()
                for problem in (*service.program.problems, *service.reports.watches.problems)
            ],
            "services": _services(service, held.state),
        }
        return Response(200, msgspec.json.format(msgspec.json.encode(dump)), JSON)

    async def index(_: Request) -> Response:
        return Response(200, "\n".join(routes.paths) + "\n")

    routes.add("/config_dump", config_dump)
    add_pages(routes, service, settings, version("ambient-mesh"))
    routes.add("/", index)
    return routes


def _certificates(certs: CertStore) -> dict[str, Any]:
    return {
        str(identity): {"valid_from": found.not_before_s, "expires": found.not_after_s}
        if isinstance(found, Svid)
        else {"error": str(found or "not there yet")}
        for identity, found in certs.states().items()
    }


def _services(service: Service, state: MeshState) -> list[dict[str, Any]]:
    """What each service became: routes by port, policies, endpoints."""
    program = service.program
    found: list[dict[str, Any]] = []
    for known in state.services:
        policies = program.policies(known)
        found.append(
            {
                "service": str(known.key),
                "routes": {
                    str(port.service_port): [
                        _route(route) for route in program.table(known, port.service_port).routes
                    ]
                    for port in known.ports
                },
                "deny": [policy.key for policy in policies.denying],
                "allow": [policy.key for policy in policies.allowing],
                "dry_run": [policy.key for policy in policies.dry_run],
                "custom": [f"{policy.key} asks {policy.provider}" for policy in policies.custom],
                "audit": [policy.key for policy in policies.auditing],
                "issuers": [rule.issuer for rule in program.guards.authentication(known).providers],
                "endpoints": [
                    {
                        "workload": endpoint.workload.uid,
                        "status": endpoint.workload.status.name,
                        "addresses": [str(ip) for ip in endpoint.workload.addresses],
                    }
                    for endpoint in state.endpoints(known)
                ],
            }
        )
    return found


def _route(route: Route) -> dict[str, Any]:
    backends = []
    if isinstance(route.action, Forward):
        backends = [
            {"backend": str(backend), "share": route.action.share(backend)}
            for backend in route.action.backends
        ]
    return {
        "name": route.name,
        "source": route.source,
        "match": [predicate.field for predicate in route.predicates],
        "action": type(route.action).__name__,
        "backends": backends,
        "timeout_s": route.timeout_s,
    }
