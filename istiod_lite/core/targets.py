"""Policies with targets: which waypoint enforces them, and which targets nobody guards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ambient.kube.core import objects
from ambient.kube.core.resources import GATEWAY_GROUP, NETWORKING_GROUP
from istiod_lite.core.envoy_filters import UNDERSTOOD
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.statuses import WAYPOINT_ACCEPTED, Condition
from istiod_lite.core.waypoints import CONTROLLER_NAME, is_waypoint
from istiod_lite.core.world import World

ACCEPTED: Final = "Accepted"
INVALID: Final = "Invalid"
NOT_FOUND: Final = "TargetNotFound"
NOT_BOUND: Final = "AncestorNotBound"
_GROUPS: Final = {
    "Service": "",
    "ServiceEntry": NETWORKING_GROUP,
    "Gateway": GATEWAY_GROUP,
    "GatewayClass": GATEWAY_GROUP,
}


class Outcome(NamedTuple):
    """Of one target."""

    target: str
    """``Kind.group:namespace/name``, with group ``core`` for the empty one (Istio's form)."""
    reason: str
    text: str


Attached = objects.AuthorizationPolicy | objects.TargetedPolicy


def outcomes(policy: Attached, world: World) -> Iterator[Outcome]:
    """One for each target, in the policy's order."""
    namespace = policy.metadata.namespace
    for target in policy.spec.targets:
        where = "" if target.kind == "GatewayClass" else namespace
        key = ObjectKey(where, target.name)
        name = f"{target.kind}.{target.group or 'core'}:{namespace}/{target.name}"
        yield Outcome(name, *_judge(target, key, namespace, world))


def condition(found: list[Outcome]) -> Condition:
    """What the policy's status says: the result of its only target, or of all together."""
    failed = [one for one in found if one.reason != ACCEPTED]
    if len(found) == 1:
        return Condition(WAYPOINT_ACCEPTED, not failed, found[0].reason, found[0].text)
    if not failed:
        text = "; ".join(one.text for one in found)
        return Condition(WAYPOINT_ACCEPTED, True, ACCEPTED, text)
    text = "; ".join(f"{one.target}: {one.text}" for one in failed)
    if len(failed) < len(found):
        return Condition(WAYPOINT_ACCEPTED, True, "PartiallyInvalid", text)
    return Condition(WAYPOINT_ACCEPTED, False, INVALID, text)


def of_patches(found: Condition, spec: Mapping[str, Any], void: list[str]) -> Condition:
    """What an EnvoyFilter's status says where waypoints do not follow some of its patches."""
    if not void or not found.met:
        return found
    text = f"no effect: {', '.join(void)}; waypoints understand {UNDERSTOOD} only"
    some = len(void) < len(spec.get("configPatches") or ())
    if some:
        return Condition(WAYPOINT_ACCEPTED, True, "PartiallyInvalid", f"{found.message}; {text}")
    return Condition(WAYPOINT_ACCEPTED, False, INVALID, text)


def _judge(
    target: objects.PolicyTargetReference, key: ObjectKey, namespace: str, world: World
) -> tuple[str, str]:
    """Reason and sentence."""
    group = _GROUPS.get(target.kind)
    # The group may be left out in old policies; a wrong one is another kind.
    if group is None or target.group not in ("", "core", group):
        return INVALID, f"target kind {target.kind} is not supported: nothing enforces the policy"
    if target.namespace not in ("", namespace):
        return INVALID, f"{target.kind} {target.name}: a policy may only target its own namespace"
    match target.kind:
        case "Gateway":
            return _gateway(key, world)
        case "GatewayClass":
            return _class(target.name, namespace, world)
        case _:
            return _bound(ObjectRef(target.kind, key), world)


def _gateway(key: ObjectKey, world: World) -> tuple[str, str]:
    gateway = world.inputs.gateways.get(key)
    if gateway is None or not is_waypoint(gateway):
        return NOT_FOUND, f"there is no waypoint {key}: nothing enforces the policy"
    if world.waypoint(key) is None:
        return NOT_BOUND, f"waypoint {key} is not ready: nothing enforces the policy yet"
    return ACCEPTED, f"Waypoint {key} enforces the policy"


def _class(name: str, namespace: str, world: World) -> tuple[str, str]:
    root = world.facts.root_namespace
    if namespace != root:
        return INVALID, f"a policy for GatewayClass {name} belongs into {root}: nothing enforces it"
    found = world.inputs.gateway_classes.get(ObjectKey("", name))
    if found is None or found.spec.controller_name != CONTROLLER_NAME:
        return NOT_FOUND, f"there is no waypoint class {name}: nothing enforces the policy"
    return ACCEPTED, f"All waypoints of class {name} enforce the policy"


def _bound(ref: ObjectRef, world: World) -> tuple[str, str]:
    inputs = world.inputs
    table = inputs.services if ref.kind == "Service" else inputs.service_entries
    binding = world.bindings.get(ref)
    if table.get(ref.key) is None:
        return NOT_FOUND, f"there is no {ref}: nothing enforces the policy"
    if binding.gateway is None:
        label = objects.USE_WAYPOINT_LABEL
        return NOT_BOUND, f"{ref} uses no waypoint (label {label}): nothing enforces the policy"
    if not binding.accepted:
        why = f"is not bound to waypoint {binding.gateway} ({binding.reason.value})"
        return NOT_BOUND, f"{ref} {why}: nothing enforces the policy"
    return ACCEPTED, f"Waypoint {binding.gateway} enforces the policy for {ref}"
