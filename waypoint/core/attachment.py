"""targetRefs: which of a waypoint's destinations a policy is attached to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ambient.api.service import Service
from waypoint.core.objects import Json, mapping, sequence, string
from waypoint.core.place import Place


class TargetRef(NamedTuple):
    """What a policy is attached to."""

    group: str
    kind: str
    name: str


def read_targets(spec: Json) -> tuple[TargetRef, ...]:
    """``targetRefs``, or the one ``targetRef`` of older policies. Raises UnusableError."""
    single = spec.get("targetRef")
    refs = sequence(spec.get("targetRefs"), "spec.targetRefs") or ([single] if single else [])
    found: list[TargetRef] = []
    for index, raw in enumerate(refs):
        field = f"spec.targetRefs[{index}]"
        ref = mapping(raw, field)
        found.append(
            TargetRef(
                string(ref.get("group"), f"{field}.group"),
                string(ref.get("kind"), f"{field}.kind"),
                string(ref.get("name"), f"{field}.name"),
            )
        )
    return tuple(found)


def holds_for(
    targets: Iterable[TargetRef], namespace: str, service: Service | None, place: Place
) -> bool:
    """Is a policy of ``namespace`` attached to a service here (None: to a pod's own address)?"""
    return any(_holds(ref, namespace, service, place) for ref in targets)


def _holds(ref: TargetRef, namespace: str, service: Service | None, place: Place) -> bool:
    match ref.kind, ref.group:
        case "Gateway", "gateway.networking.k8s.io":
            return (namespace, ref.name) == (place.namespace, place.gateway)
        case "GatewayClass", "gateway.networking.k8s.io":
            return namespace == place.root_namespace and ref.name == place.gateway_class
        case "Service", "" | "core":
            host = place.service_host(ref.name, namespace)
            return service is not None and service.key == (namespace, host)
        case "ServiceEntry", "networking.istio.io":
            return (
                service is not None
                and (service.namespace, service.name) == (namespace, ref.name)
                and service.hostname != place.service_host(ref.name, namespace)
            )
        case _:
            return False
