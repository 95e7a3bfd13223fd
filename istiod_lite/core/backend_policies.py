"""BackendTLSPolicy and XBackendTrafficPolicy: which of their targets they hold for, and why not.

Each target has an entry in ``status.ancestors``, as with Istio: a mesh has no other ancestor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.kube.core import objects
from ambient.kube.core.backend_policy_objects import BackendPolicy, BackendTarget
from ambient.kube.core.resources import NETWORKING_GROUP
from istiod_lite.core.credentials import Credentials
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.statuses import Condition, ParentStatus
from istiod_lite.core.world import World

GROUPS: Final = {"Service": ("", "core"), "ServiceEntry": (NETWORKING_GROUP,)}
"""Kinds that a policy may be for, with the groups that name them."""
TLS_POLICY: Final = "BackendTLSPolicy"
SYSTEM: Final = "System"
_ACCEPTED: Final = Condition("Accepted", True, "Accepted", "Connections to the target follow it")
_RESOLVED: Final = Condition("ResolvedRefs", True, "ResolvedRefs", "All references lead somewhere")
_REFUSES: Final = "no connection to the target is made"


class _Place(NamedTuple):
    """A target as it was found; ``port`` None is all of its ports."""

    target: BackendTarget
    ref: ObjectRef
    port: int | None = None


def outcome(
    ref: ObjectRef, policy: BackendPolicy, world: World, credentials: Credentials
) -> tuple[tuple[ParentStatus, ...], tuple[dict[str, Any], ...]]:
    """What the status says, and the targets that the policy holds for: ``kind``, ``group``,
    ``name`` and, for a single port, ``port``.
    """
    found: list[ParentStatus] = []
    held: list[dict[str, Any]] = []
    resolved, usable = _resolved(ref, policy, credentials)
    for target in dict.fromkeys(policy.spec.target_refs or ()):
        place = _place(ref, policy, target, world)
        if isinstance(place, _Place):
            wire = {"group": target.group, "kind": target.kind, "name": target.name}
            held.append(wire if place.port is None else {**wire, "port": place.port})
            accepted = usable or _with_waypoint(place.ref, world)
        else:
            accepted = place
        conditions = (accepted,) if resolved is None else (accepted, resolved)
        found.append(ParentStatus(_as_written(target), conditions))
    return tuple(found), tuple(held)


def for_waypoints(config: ConfigObject, targets: tuple[dict[str, Any], ...]) -> ConfigObject | None:
    """The policy as waypoints get it: with the targets that it holds for; None without any."""
    if not targets:
        return None
    spec = {**config.object["spec"], "targetRefs": list(targets)}
    return msgspec.structs.replace(config, object={**config.object, "spec": spec})


def _as_written(target: BackendTarget) -> dict[str, Any]:
    section = {"sectionName": target.section_name} if target.section_name else {}
    return {"group": target.group, "kind": target.kind, "name": target.name, **section}


def _place(
    ref: ObjectRef, policy: BackendPolicy, target: BackendTarget, world: World
) -> _Place | Condition:
    """Where a target is, or why the policy does not hold for it."""
    if target.group not in GROUPS.get(target.kind, ()):
        text = f"{target.kind} of group {target.group!r} is not supported, only Service "
        return _refused("TargetNotFound", f"{text}(group '') and ServiceEntry")
    named = ObjectRef(target.kind, ObjectKey(policy.metadata.namespace, target.name))
    ports = _ports(named, world)
    if ports is None:
        return _refused("TargetNotFound", f"there is no {named}")
    if target.section_name and target.section_name not in ports:
        return _refused("TargetNotFound", f"{named} has no port with name {target.section_name!r}")
    older = _older(ref, policy, target, world)
    if older is not None:
        return _refused("Conflicted", f"{ref.kind} {older} is for the same target and older")
    return _Place(target, named, ports.get(target.section_name))


def _ports(ref: ObjectRef, world: World) -> Mapping[str, int] | None:
    """Numbers by name; None where there is no such object."""
    if ref.kind == "ServiceEntry":
        entry = world.inputs.service_entries.get(ref.key)
        return {one.name: one.number for one in entry.spec.ports or ()} if entry else None
    service = world.inputs.services.get(ref.key)
    if service is None:
        return None
    return {one.name: one.port for one in service.spec.ports or () if one.name}


def _older(
    ref: ObjectRef, policy: BackendPolicy, target: BackendTarget, world: World
) -> ObjectKey | None:
    """The policy that has precedence: the oldest, then the first by name (Gateway API)."""
    namespace = policy.metadata.namespace
    named = ObjectRef(target.kind, ObjectKey(namespace, target.name))
    rivals = [
        other.metadata
        for other_ref in world.inputs.backend_policies.keys_by("target", named)
        if other_ref.kind == ref.kind
        and (other := world.inputs.backend_policies.get(other_ref)) is not None
        and target in (other.spec.target_refs or ())
    ]
    first = min(rivals, key=lambda one: one.age_order)
    return None if first.name == ref.key.name else ObjectKey(namespace, first.name)


def _resolved(
    ref: ObjectRef, policy: BackendPolicy, credentials: Credentials
) -> tuple[Condition | None, Condition | None]:
    """``ResolvedRefs`` (None for kinds that refer to nothing), and why nobody can be believed."""
    if ref.kind != TLS_POLICY:
        return None, None
    validation = policy.spec.validation
    refs = validation.ca_certificate_refs or ()
    if not refs:
        known = validation.well_known == SYSTEM
        text = f"wellKnownCACertificates: {validation.well_known!r} is not {SYSTEM}; {_REFUSES}"
        return _RESOLVED, None if known else _refused("Invalid", text)
    problems = []
    for one in refs:
        if (one.group, one.kind) not in (("", "ConfigMap"), ("core", "ConfigMap")):
            text = f"{one.group or 'core'}/{one.kind} {one.name}: only a ConfigMap is supported"
            problems.append(("InvalidKind", text))
            continue
        named = ObjectRef(one.kind, ObjectKey(policy.metadata.namespace, one.name))
        if why := credentials.authority_problem(named):
            problems.append(("InvalidCACertificateRef", why))
    if not problems:
        return _RESOLVED, None
    texts = "; ".join(text for _, text in problems)
    condition = Condition("ResolvedRefs", False, problems[0][0], texts)
    if len(problems) < len(refs):
        return condition, None
    return condition, _refused("NoValidCACertificate", f"{texts}; {_REFUSES}")


def _with_waypoint(ref: ObjectRef, world: World) -> Condition:
    """A policy may be there before a waypoint is, or for a Service that only routes lead to."""
    gateways = ", ".join(map(str, world.bindings.get(ref).gateways))
    if gateways:
        return _ACCEPTED._replace(message=f"Waypoint {gateways} follows it")
    text = (
        f"{ref} uses no waypoint (label {objects.USE_WAYPOINT_LABEL}): only waypoints whose "
        "routes lead to it follow the policy"
    )
    return _ACCEPTED._replace(message=text)


def _refused(reason: str, text: str) -> Condition:
    return Condition("Accepted", False, reason, text)


def problems(found: tuple[ParentStatus, ...]) -> Iterator[str]:
    """What is wrong, each once."""
    yield from dict.fromkeys(
        one.message for parent in found for one in parent.conditions if not one.met
    )
