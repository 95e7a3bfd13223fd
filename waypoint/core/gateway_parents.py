"""``parentRefs`` of Gateway API routes: which services a route is for."""

from __future__ import annotations

from typing import Final, NamedTuple

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.objects import Json, integer, mapping, sequence, string
from waypoint.core.place import Place

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
ISTIO_GROUP: Final = "networking.istio.io"


class Parent(NamedTuple):
    """What a route hangs on: a Service, a ServiceEntry, or (kind Gateway) this waypoint itself.

    ``hostname`` is a Service's; ``port`` None means all ports.
    """

    kind: str
    namespace: str
    name: str
    hostname: str = ""
    port: int | None = None

    def covers(self, service: Service, port: int) -> bool:
        """Is the route for this service port?"""
        if self.port not in (None, port):
            return False
        if self.kind == "Service":
            return (service.namespace, service.hostname) == (self.namespace, self.hostname)
        if self.kind == "ServiceEntry":
            named = (service.namespace, service.name) == (self.namespace, self.name)
            return named and service.hostname != self.hostname
        return True


def parents_of(spec: Json, config: ConfigObject, place: Place) -> tuple[Parent, ...]:
    """The parents that can concern this waypoint. Raises UnusableError."""
    found: list[Parent] = []
    for index, raw in enumerate(sequence(spec.get("parentRefs"), "spec.parentRefs")):
        field = f"spec.parentRefs[{index}]"
        ref = mapping(raw, field)
        kind = string(ref.get("kind"), f"{field}.kind", "Gateway")
        group = string(ref.get("group"), f"{field}.group", GATEWAY_GROUP)
        name = string(ref.get("name"), f"{field}.name")
        namespace = string(ref.get("namespace"), f"{field}.namespace") or config.namespace
        port = integer(ref.get("port"), f"{field}.port") or None
        host = place.service_host(name, namespace)
        known = {"Service": ("", "core"), "ServiceEntry": (ISTIO_GROUP,)}.get(kind, ())
        if group in known:
            found.append(Parent(kind, namespace, name, host, port))
        elif kind == "Gateway" and (namespace, name) == (place.namespace, place.gateway):
            found.append(Parent(kind, namespace, name))
    return tuple(found)
