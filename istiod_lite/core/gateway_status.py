"""Status of our Gateways and their classes: do they run, where, for whom, what hangs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from ambient.api.ports import HBONE_PORT
from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.bindings import Bindings
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.network_gateways import REMOTE_CLASS
from istiod_lite.core.waypoint_objects import service_key
from istiod_lite.core.waypoints import CONTROLLER_NAME, WAYPOINT_CLASS, Reason

CONTROLLERS: Final = {
    WAYPOINT_CLASS: (CONTROLLER_NAME, "Waypoint proxies of the ambient mesh"),
    REMOTE_CLASS: ("istio.io/unmanaged-gateway", "Stands for a gateway that runs elsewhere"),
}
"""Our classes: controller name and description (Istio's names)."""
ADDRESS_TYPE_ANNOTATION: Final = "networking.istio.io/address-type"
IN_USE: Final = "ambient-mesh/InUse"
"""Ours: who is bound to the waypoint, and who asked for it and goes past it."""
_NAMED: Final = 5
"""Objects that a message names; the others are counted."""

Outcome = tuple[str, str, str]
"""Status, reason, message."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a waypoint is."""

    cluster_ip: str = ""
    ready: int = 0
    routes: int = 0
    problem: str = ""
    """Of its parameters; the waypoint then runs as it did before."""
    usage: Outcome = ("False", "NotUsed", "Nothing is bound to the waypoint")


def gateway_class(name: str) -> KubeObject:
    """The class itself, so that users need not install it."""
    controller, description = CONTROLLERS[name]
    spec = {"controllerName": controller, "description": description}
    return {"metadata": {"name": name}, "spec": spec}


def class_status(found: KubeObject, now: str) -> KubeObject | None:
    """The status that says that we run the class; None where it says so, or is not ours."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    accepted = any(one["type"] == "Accepted" and one["status"] == "True" for one in conditions)
    ours = {controller for controller, _ in CONTROLLERS.values()}
    if accepted or found.get("spec", {}).get("controllerName") not in ours:
        return None
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "Gateways of this class are looked after",
        "observedGeneration": found["metadata"].get("generation", 0),
        "lastTransitionTime": now,
    }
    return {"conditions": [condition]}


def usage(gateway: ObjectKey, bindings: Bindings) -> Outcome:
    """Who uses a waypoint, and who asks for it without getting it. Pods count by namespace, so
    that one that comes or goes changes nothing.
    """
    bound: list[str] = []
    past: list[str] = []
    for ref in sorted(bindings.asking(gateway)):
        binding = bindings.get(ref)
        name = str(ref) if ref.kind != "Pod" else f"Pods of {ref.key.namespace}"
        if gateway in binding.gateways:
            bound.append(name)
        elif not (binding.inherited and binding.reason is Reason.OTHER_TRAFFIC):
            reason = binding.canary_reason if gateway == binding.canary else binding.reason
            if reason.value:
                past.append(f"{name} ({reason.value})")
    text = f"Bound: {_listed(bound)}"
    if past:
        text += f". Asked for, but gone past: {_listed(past)}"
    if bound:
        return "True", "Used" if not past else "PartlyBypassed", text
    return "False", "Bypassed" if past else "NotUsed", text


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more if found else "nothing"


def of_waypoint(
    gateway: objects.Gateway, standing: Standing, facts: MeshFacts, now: str
) -> KubeObject:
    """A waypoint's status. Addresses are given once a pod is ready, and kept after that: clients
    would otherwise leave the waypoint out, and with it its policies.
    """
    hostname = facts.hostname(service_key(gateway))
    assigned = bool(gateway.status.addresses)
    programmed = bool(standing.cluster_ip) and (standing.ready > 0 or assigned)
    addresses: list[dict[str, str]] = []
    if programmed:
        both = {"Hostname": hostname, "IPAddress": standing.cluster_ip}
        only = gateway.metadata.annotation(ADDRESS_TYPE_ANNOTATION)
        kinds = (only,) if only in both else tuple(both)
        addresses = [{"type": kind, "value": both[kind]} for kind in kinds if kind is not None]
    elif assigned:
        addresses = _addresses(gateway.status.addresses)
    problem = listener_problem(gateway)
    outcomes = {
        "Accepted": _accepted(standing, problem),
        "Programmed": _programmed(standing, programmed, hostname),
        IN_USE: standing.usage,
    }
    return {
        "addresses": addresses,
        "conditions": _conditions(gateway, outcomes, gateway.status.conditions, now),
        "listeners": [
            {
                "name": listener.name,
                "attachedRoutes": standing.routes,
                "supportedKinds": [],
                "conditions": _of_listener(gateway, listener, problem, now),
            }
            for listener in gateway.spec.listeners or ()
        ],
    }


def _accepted(standing: Standing, problem: str) -> Outcome:
    if standing.problem:
        return "False", "InvalidParameters", standing.problem
    if problem:
        return "True", "ListenersNotValid", problem
    return "True", "Accepted", "Accepted"


def _programmed(standing: Standing, programmed: bool, hostname: str) -> Outcome:
    if programmed:
        return "True", "Programmed", f"Ready at {hostname}:{HBONE_PORT}"
    if standing.cluster_ip:
        return "False", "AddressNotAssigned", "No pod of the waypoint is ready yet"
    return "False", "AddressNotUsable", "The waypoint's Service has no address yet"


def of_remote(gateway: objects.Gateway, now: str) -> KubeObject:
    """A Gateway that stands for another one: its addresses are what it says."""
    text = "The gateway runs elsewhere: nothing is programmed here"
    outcomes = {
        "Accepted": ("True", "Accepted", "Accepted"),
        "Programmed": ("True", "Programmed", text),
    }
    return {
        "addresses": _addresses(gateway.spec.addresses),
        "conditions": _conditions(gateway, outcomes, gateway.status.conditions, now),
        "listeners": [
            {
                "name": listener.name,
                "attachedRoutes": 0,
                "supportedKinds": [],
                "conditions": _of_listener(gateway, listener, "", now),
            }
            for listener in gateway.spec.listeners or ()
        ],
    }


def _addresses(found: Iterable[objects.GatewayAddressValue] | None) -> list[dict[str, str]]:
    return [{"type": one.type or "IPAddress", "value": one.value} for one in found or ()]


def listener_problem(gateway: objects.Gateway) -> str:
    """What is wrong with a waypoint's listeners, empty if nothing."""
    listeners = gateway.spec.listeners or ()
    if len(listeners) == 1 and (listeners[0].port, listeners[0].protocol) == (HBONE_PORT, "HBONE"):
        return ""
    return f"a waypoint has exactly one listener: port {HBONE_PORT}, protocol HBONE"


def says_the_same(gateway: objects.Gateway, wanted: KubeObject) -> bool:
    """Whether the status of ``gateway`` is already the wanted one, times aside."""
    status = gateway.status
    listeners = {
        one.name: (one.attached_routes, _said(one.conditions)) for one in status.listeners or ()
    }
    wanted_listeners = {
        one["name"]: (one["attachedRoutes"], _saying(one["conditions"]))
        for one in wanted["listeners"]
    }
    return (
        _addresses(status.addresses) == wanted["addresses"]
        and _saying(wanted["conditions"]) <= _said(status.conditions)
        and listeners == wanted_listeners
    )


def _said(conditions: Iterable[objects.Condition] | None) -> frozenset[tuple[Any, ...]]:
    return frozenset(
        (one.type, one.status, one.reason, one.message, one.observed_generation)
        for one in conditions or ()
    )


def _saying(conditions: Iterable[Mapping[str, Any]]) -> frozenset[tuple[Any, ...]]:
    names = ("type", "status", "reason", "message", "observedGeneration")
    return frozenset(tuple(one[name] for name in names) for one in conditions)


def _conditions(
    gateway: objects.Gateway,
    wanted: Mapping[str, Outcome],
    before: Iterable[objects.Condition] | None,
    now: str,
) -> list[dict[str, Any]]:
    """One whose status stays keeps its time."""
    since = {(one.type, one.status): one.last_transition_time for one in before or ()}
    return [
        {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": message,
            "observedGeneration": gateway.metadata.generation,
            "lastTransitionTime": since.get((kind, value)) or now,
        }
        for kind, (value, reason, message) in wanted.items()
    ]


def _of_listener(
    gateway: objects.Gateway, listener: objects.Listener, problem: str, now: str
) -> list[dict[str, Any]]:
    right = not problem or (listener.port, listener.protocol) == (HBONE_PORT, "HBONE")
    bad: Outcome = ("False", "UnsupportedProtocol", problem)
    wanted = {
        "Accepted": ("True", "Accepted", "Accepted") if right else bad,
        "Programmed": ("True", "Programmed", "Programmed") if right else bad,
        "Conflicted": ("False", "NoConflicts", "No conflicts"),
        "ResolvedRefs": ("True", "ResolvedRefs", "Nothing is referred to"),
    }
    have = (one.conditions for one in gateway.status.listeners or () if one.name == listener.name)
    return _conditions(gateway, wanted, next(have, None), now)
