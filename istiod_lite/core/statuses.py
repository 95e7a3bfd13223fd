"""What we say in the status of other people's objects, and how that gets there.

A status is written with the condition types that are ours; whatever others wrote stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ambient.kube.core.resources import KubeObject
from istiod_lite.core.inputs import BACKEND_POLICY_KINDS, ROUTE_KINDS
from istiod_lite.core.waypoints import CONTROLLER_NAME

ROUTE_CONTROLLER: Final = "istio.io/gateway-controller"
"""Istio's name for who writes the status of routes."""

WAYPOINT_BOUND: Final = "istio.io/WaypointBound"
WAYPOINT_MISSING: Final = "istio.io/WaypointMissing"
VISIBILITY_APPLIED: Final = "istio.io/VisibilityApplied"
ZTUNNEL_ACCEPTED: Final = "ZtunnelAccepted"
WAYPOINT_ACCEPTED: Final = "WaypointAccepted"
OBJECT_ACCEPTED: Final = "istio.io/Accepted"
"""Ours: False on what cannot be used, or only in part. Absent where all is well."""

OUR_CONDITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Service": (WAYPOINT_BOUND,),
    "ServiceEntry": (WAYPOINT_BOUND, WAYPOINT_MISSING, VISIBILITY_APPLIED, OBJECT_ACCEPTED),
    "WorkloadEntry": (WAYPOINT_BOUND, OBJECT_ACCEPTED),
    "AuthorizationPolicy": (ZTUNNEL_ACCEPTED, WAYPOINT_ACCEPTED),
    "PeerAuthentication": (ZTUNNEL_ACCEPTED,),
    "RequestAuthentication": (WAYPOINT_ACCEPTED,),
    "Telemetry": (WAYPOINT_ACCEPTED,),
    "EnvoyFilter": (WAYPOINT_ACCEPTED,),
    "DestinationRule": (OBJECT_ACCEPTED,),
}
"""Condition types that we write, by kind; routes have parents instead."""


class Condition(NamedTuple):
    """One statement about an object."""

    type: str
    met: bool
    reason: str
    message: str


class Shape(NamedTuple):
    """Where a status has an entry for each object that somebody's word is about."""

    field: str
    ref: str
    controller: str


OF_ROUTES: Final = Shape("parents", "parentRef", ROUTE_CONTROLLER)
OF_POLICIES: Final = Shape("ancestors", "ancestorRef", CONTROLLER_NAME)


def shape_of(kind: str) -> Shape | None:
    """None for kinds whose status has conditions of the object as a whole."""
    if kind in BACKEND_POLICY_KINDS:
        return OF_POLICIES
    return OF_ROUTES if kind in ROUTE_KINDS else None


class ParentStatus(NamedTuple):
    """What we say about a route at one of its parents, or a policy at one of its targets."""

    ref: dict[str, Any]
    """The parent as the object names it."""
    conditions: tuple[Condition, ...]


Wanted = tuple[Condition, ...] | tuple[ParentStatus, ...]
"""The whole of what we have to say about an object; empty for nothing."""


class Reported(msgspec.Struct, frozen=True):
    """What the API server has: our conditions, or the parents of a route, by ``shape``."""

    generation: int = 0
    version: str = ""
    conditions: tuple[dict[str, Any], ...] = ()
    parents: tuple[dict[str, Any], ...] = ()
    """Of all controllers."""
    shape: Shape = OF_ROUTES

    @property
    def ours(self) -> list[dict[str, Any]]:
        """The parents that we wrote."""
        return [one for one in self.parents if one.get("controllerName") == self.shape.controller]


def reported(kind: str, obj: KubeObject) -> Reported:
    """Read our part of an object's status; whatever is malformed counts as not there."""
    metadata, status = _mapping(obj.get("metadata")), _mapping(obj.get("status"))
    ours, shape = OUR_CONDITIONS.get(kind, ()), shape_of(kind)
    return Reported(
        _number(metadata.get("generation")),
        str(metadata.get("resourceVersion", "")),
        tuple(one for one in _mappings(status.get("conditions")) if one.get("type") in ours),
        tuple(_mappings(status.get(shape.field))) if shape is not None else (),
        shape or OF_ROUTES,
    )


def says_the_same(have: Reported, wanted: Wanted) -> bool:
    """Whether nothing needs to be written: times do not count, generations do."""
    if have.parents or any(isinstance(one, ParentStatus) for one in wanted):
        return _canonical_parents(have.ours, have.shape) == _canonical_parents(
            render_parents(have, wanted, ""), have.shape
        )
    return _canonical(have.conditions) == _canonical(render(have, wanted, ""))


def render(have: Reported, wanted: Wanted, now: str) -> list[dict[str, Any]]:
    """Conditions as Kubernetes stores them; one whose status stays keeps its time."""
    return [
        _render(one, have.generation, have.conditions, now)
        for one in wanted
        if isinstance(one, Condition)
    ]


def render_parents(have: Reported, wanted: Wanted, now: str) -> list[dict[str, Any]]:
    """Our entries of a route's ``status.parents``, or a policy's ``status.ancestors``."""
    shape = have.shape
    before = {_parent_key(one, shape): _mappings(one.get("conditions")) for one in have.ours}
    entries = []
    for parent in wanted:
        if isinstance(parent, ParentStatus):
            key = msgspec.json.encode(parent.ref, order="sorted")
            known = list(before.get(key, ()))
            entries.append(
                {
                    shape.ref: parent.ref,
                    "controllerName": shape.controller,
                    "conditions": [
                        _render(one, have.generation, known, now) for one in parent.conditions
                    ],
                }
            )
    return entries


def _render(
    one: Condition, generation: int, before: Sequence[Mapping[str, Any]], now: str
) -> dict[str, Any]:
    status = "True" if one.met else "False"
    old = next((c for c in before if c.get("type") == one.type), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    made: dict[str, Any] = {
        "type": one.type,
        "status": status,
        "reason": one.reason,
        "message": one.message,
        "lastTransitionTime": since or now,
    }
    # Services have no generation.
    return made | ({"observedGeneration": generation} if generation else {})


def _canonical(conditions: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("type", "status", "reason", "message", "observedGeneration")
    return sorted(tuple(str(one.get(name)) for name in names) for one in conditions)


def _canonical_parents(parents: Iterable[Mapping[str, Any]], shape: Shape) -> list[tuple[Any, ...]]:
    return sorted(
        (_parent_key(one, shape), tuple(_canonical(_mappings(one.get("conditions")))))
        for one in parents
    )


def _parent_key(entry: Mapping[str, Any], shape: Shape) -> bytes:
    return msgspec.json.encode(_mapping(entry.get(shape.ref)), order="sorted")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
