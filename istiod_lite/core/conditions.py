"""Binding and visibility as conditions on Services, ServiceEntries and WorkloadEntries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry
from istiod_lite.core.mesh_config import EntryVisibility
from istiod_lite.core.statuses import (
    OBJECT_ACCEPTED,
    VISIBILITY_APPLIED,
    WAYPOINT_BOUND,
    WAYPOINT_MISSING,
    Condition,
)
from istiod_lite.core.waypoints import Binding, Reason

CONNECT_STRATEGY_ANNOTATION: Final = "istio.io/connect-strategy"
RACING: Final = "RACE_FIRST_TCP_CONNECT"


def of_service(binding: Binding, ingress: bool, *, closed: bool) -> Iterator[Condition]:
    """Of what is called by a service's address; ``closed``: the mesh fails closed."""
    if binding.gateway is None:
        return
    if not binding.accepted:
        yield _unbound(binding, closed=closed)
        return
    text = [f"Calls to the service go through waypoint {binding.gateway}"]
    text.append(f"ingress gateways {'do' if ingress else 'do not'} use it")
    if binding.canary is not None:
        text.append(_canary(binding))
    yield Condition(WAYPOINT_BOUND, True, Reason.ACCEPTED.value, "; ".join(text))


def of_workload(binding: Binding, *, closed: bool) -> Iterator[Condition]:
    """Of what is called by its own address; a waypoint of its namespace may be for services."""
    if binding.gateway is None:
        return
    if binding.accepted:
        text = f"Calls to the workload's address go through waypoint {binding.gateway}"
        yield Condition(WAYPOINT_BOUND, True, Reason.ACCEPTED.value, text)
    elif not (binding.inherited and binding.reason is Reason.OTHER_TRAFFIC):
        yield _unbound(binding, closed=closed)


def of_entry(
    entry: ServiceEntry,
    binding: Binding,
    ingress: bool,
    visibility: EntryVisibility | None,
    *,
    closed: bool,
) -> Iterator[Condition]:
    """Of a ServiceEntry; ``visibility`` is None where the mesh does not configure any."""
    yield from of_service(binding, ingress, closed=closed)
    if not binding.accepted:
        yield from _missing(entry)
    if visibility is not None:
        texts = {
            EntryVisibility.PUBLIC: ("Public", "Its hosts are known in the whole mesh"),
            EntryVisibility.NAMESPACE: ("Namespace", "Its hosts are known in its namespace only"),
            EntryVisibility.NONE: ("None", "The mesh configuration hides its hosts from everybody"),
        }
        yield Condition(VISIBILITY_APPLIED, True, *texts[visibility])


def of_remarks(remarks: Iterable[str]) -> Iterator[Condition]:
    """What is wrong with an object, on the object itself."""
    if texts := "; ".join(remarks):
        yield Condition(OBJECT_ACCEPTED, False, "PartiallyInvalid", texts)


def of_unreadable(reason: str, hint: str) -> Condition:
    """Nothing of the object can be used."""
    return Condition(OBJECT_ACCEPTED, False, "Invalid", f"{reason}; {hint}" if hint else reason)


def _missing(entry: ServiceEntry) -> Iterator[Condition]:
    if any(host.startswith("*") for host in entry.spec.hosts):
        text = "A host with a wildcard has no address of its own: only a waypoint can serve it"
        yield Condition(WAYPOINT_MISSING, True, "NoWaypointForWildcardService", text)
    elif entry.metadata.annotation(CONNECT_STRATEGY_ANNOTATION) == RACING:
        text = f"Connect strategy {RACING} needs a waypoint: node tunnels do not race"
        yield Condition(WAYPOINT_MISSING, True, "NoWaypointForRacingConnectStrategy", text)


def _unbound(binding: Binding, *, closed: bool) -> Condition:
    why = _WHY[binding.reason].format(gateway=binding.gateway)
    effect = (
        "connections are refused until that is mended"
        if closed
        else "traffic goes past the waypoint"
    )
    return Condition(WAYPOINT_BOUND, False, binding.reason.value, f"{why}: {effect}")


def _canary(binding: Binding) -> str:
    if binding.weighted:
        return f"{binding.weighted[-1].weight} % of them through canary {binding.canary}"
    why = _WHY[binding.canary_reason].format(gateway=binding.canary)
    return f"the canary gets none ({binding.canary_reason.value}): {why}"


_WHY: Final = {
    Reason.NOT_READY: "Waypoint {gateway} does not exist or is not ready",
    Reason.DENIED: (
        "Waypoint {gateway} does not let this namespace attach (allowedRoutes of its listener)"
    ),
    Reason.OTHER_TRAFFIC: (
        f"Waypoint {{gateway}} is not for this kind of traffic (label {objects.WAYPOINT_FOR_LABEL})"
    ),
    Reason.OTHER_NAMESPACE: (
        "The entry is visible in its own namespace only, waypoint {gateway} is in another one"
    ),
    Reason.CANARY_WEIGHT: "the weight is no number from 0 to 100",
    Reason.CANARY_IS_PRIMARY: "{gateway} is the waypoint itself",
}
