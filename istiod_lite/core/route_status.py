"""What a route's status says at each of its parents, and which of its references are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.kube.core import objects
from ambient.kube.core.resources import GATEWAY_GROUP, NETWORKING_GROUP
from ambient.kube.core.route_objects import BackendReference, Route, RouteParent
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import parent_ref
from istiod_lite.core.statuses import Condition, ParentStatus
from istiod_lite.core.waypoints import allows, is_waypoint
from istiod_lite.core.world import World

MESH_PARENTS: Final = {"Service": ("", "core"), "ServiceEntry": (NETWORKING_GROUP,)}
"""Kinds of the mesh that a route may hang on, with the groups that name them."""
REFUSED_KIND: Final = "RefNotPermitted"
"""In what waypoints get, the kind of a reference that is refused: they answer 500 for it."""


class _Problem(NamedTuple):
    reason: str
    text: str


_NO_PARENT: Final = "NoMatchingParent"


def statuses(ref: ObjectRef, route: Route, world: World) -> Iterator[ParentStatus]:
    """One for each parent that is ours: waypoints, Services and ServiceEntries."""
    resolved = _resolved_refs(ref, route, world)
    parents = [parent for parent in route.spec.parent_refs or () if _is_ours(parent, route, world)]
    seen = Counter(parents)
    whole = {_thing(one, route) for one in parents if (one.section_name, one.port) == (None, None)}
    for parent in dict.fromkeys(parents):
        conflict = seen[parent] > 1 or (
            _thing(parent, route) in whole and (parent.section_name or parent.port) is not None
        )
        problem = _accepts(ref, route, parent, world)
        if problem is None and conflict:
            text = f"{parent.kind} {parent.name} is a parent more than once"
            problem = _Problem("ParentRefConflict", text)
        accepted = _condition("Accepted", problem, "Accepted", "The route is valid here")
        found = [accepted, resolved]
        if parent.kind != "Gateway" and problem is None:
            found.append(_resolved_waypoint(route, parent, world))
        yield ParentStatus(_as_written(parent), tuple(found))


def _name(parent: RouteParent, route: Route) -> ObjectRef:
    return parent_ref(route, parent)


def _thing(parent: RouteParent, route: Route) -> tuple[str, ObjectRef]:
    """The whole parent, whichever part of it is meant."""
    return parent.group, _name(parent, route)


def _as_written(parent: RouteParent) -> dict[str, Any]:
    """The reference as the API server completes it."""
    fields = {
        "group": parent.group,
        "kind": parent.kind,
        "namespace": parent.namespace,
        "name": parent.name,
        "sectionName": parent.section_name,
        "port": parent.port,
    }
    return {name: value for name, value in fields.items() if value or name == "group"}


def _is_ours(parent: RouteParent, route: Route, world: World) -> bool:
    """Of a Gateway that is missing or another controller's we say nothing."""
    if parent.kind == "Gateway" and parent.group == GATEWAY_GROUP:
        gateway = world.inputs.gateways.get(_name(parent, route).key)
        return gateway is not None and is_waypoint(gateway)
    # A parent of the mesh without its group means Gateway API's: worth a word, see _accepts.
    return parent.group in (*MESH_PARENTS.get(parent.kind, ()), GATEWAY_GROUP) and (
        parent.kind in MESH_PARENTS
    )


def _accepts(ref: ObjectRef, route: Route, parent: RouteParent, world: World) -> _Problem | None:
    named = _name(parent, route)
    if parent.kind == "Gateway":
        gateway = world.inputs.gateways.get(named.key)
        assert gateway is not None
        return _listeners_accept(ref, route, parent, gateway, world)
    if parent.group == GATEWAY_GROUP:
        group = MESH_PARENTS[parent.kind][0]
        return _Problem(_NO_PARENT, f"a parent of kind {parent.kind} needs group {group!r}")
    ports = _ports_of(named, world)
    if ports is None:
        return _Problem(_NO_PARENT, f"there is no {named}")
    if parent.port is not None and parent.port not in ports:
        return _Problem(_NO_PARENT, f"{named} has no port {parent.port}")
    return None


def _listeners_accept(
    ref: ObjectRef, route: Route, parent: RouteParent, gateway: objects.Gateway, world: World
) -> _Problem | None:
    """None if one of the listeners that the route means lets it attach."""
    key = _name(parent, route).key
    meant = [
        one
        for one in gateway.spec.listeners or ()
        if parent.section_name in (None, one.name) and parent.port in (None, one.port)
    ]
    if not meant:
        return _Problem(_NO_PARENT, f"Gateway {key} has no such listener")
    namespace = world.inputs.namespace_metadata(route.metadata.namespace)
    for listener in meant:
        rule = listener.allowed_routes or objects.AllowedRoutes()
        if rule.kinds is not None and ref.kind not in {one.kind for one in rule.kinds}:
            continue
        if allows(rule.namespaces or objects.RouteNamespaces(), key.namespace, namespace):
            break
    else:
        text = f"no listener of Gateway {key} allows this route (allowedRoutes)"
        return _Problem("NotAllowedByListeners", text)
    hosts = [one.hostname for one in meant]
    names = route.spec.hostnames
    if names and not any(not host or any(_meet(host, name) for name in names) for host in hosts):
        return _Problem("NoMatchingListenerHostname", f"no listener of {key} has these hostnames")
    return None


def attaches(ref: ObjectRef, route: Route, gateway: ObjectKey, world: World) -> bool:
    """Whether the route hangs on this waypoint by its Gateway."""
    return any(
        parent.kind == "Gateway"
        and _name(parent, route).key == gateway
        and _is_ours(parent, route, world)
        and _accepts(ref, route, parent, world) is None
        for parent in route.spec.parent_refs or ()
    )


def _meet(one: str, other: str) -> bool:
    """Whether two hostnames, each perhaps with a wildcard label in front, have one in common."""
    if one.startswith("*.") and other.startswith("*."):
        return one.endswith(other[1:]) or other.endswith(one[1:])
    if one.startswith("*."):
        return other.endswith(one[1:])
    return other == one or (other.startswith("*.") and one.endswith(other[1:]))


def _resolved_refs(ref: ObjectRef, route: Route, world: World) -> Condition:
    problems = []
    for number, rule in enumerate(route.spec.rules or ()):
        backends = rule.backend_refs or ()
        filters = [*(rule.filters or ()), *(f for one in backends for f in one.filters or ())]
        for one in filters:
            if one.type == "ExtensionRef":
                problems.append(
                    _Problem("InvalidFilter", f"rules[{number}]: ExtensionRef is unknown")
                )
        for field, backend in rule.references:
            problem = _backend(ref, route, backend, world)
            if problem is not None:
                text = f"rules[{number}].{field}: {problem.text}"
                problems.append(_Problem(problem.reason, text))
    text = "; ".join(one.text for one in problems[:_MAX_PROBLEMS])
    if len(problems) > _MAX_PROBLEMS:
        text += f"; and {len(problems) - _MAX_PROBLEMS} more"
    first = _Problem(problems[0].reason, text) if problems else None
    return _condition("ResolvedRefs", first, "ResolvedRefs", "All references lead somewhere")


_MAX_PROBLEMS: Final = 5
"""Of those that a condition's text names; Kubernetes limits it to 32 KiB."""


def _backend(
    ref: ObjectRef, route: Route, backend: BackendReference, world: World
) -> _Problem | None:
    if backend.kind == "Hostname" and backend.group == NETWORKING_GROUP:
        if _refused(ref, route, backend, world):
            text = f"no ReferenceGrant permits {ref.kind}s of {route.metadata.namespace}"
            return _Problem("RefNotPermitted", f"{backend.name}: {text}")
        if world.hosts.speakers(backend.name):
            return None
        return _Problem("BackendNotFound", f"no service has the name {backend.name}")
    if backend.kind != "Service" or backend.group not in ("", "core"):
        kind = f"{backend.group or 'core'}/{backend.kind}"
        return _Problem("InvalidKind", f"{kind} is not supported, only Service and Hostname")
    where = backend.namespace or route.metadata.namespace
    named = ObjectRef("Service", ObjectKey(where, backend.name))
    if _refused(ref, route, backend, world):
        text = f"no ReferenceGrant in {where} permits {ref.kind}s of {route.metadata.namespace}"
        return _Problem("RefNotPermitted", text)
    ports = _ports_of(named, world)
    if ports is None:
        return _Problem("BackendNotFound", f"there is no {named}")
    if backend.port is None:
        return _Problem("InvalidDestination", f"{named} needs a port")
    if backend.port not in ports:
        return _Problem("BackendNotFound", f"{named} has no port {backend.port}")
    return None


def _ports_of(ref: ObjectRef, world: World) -> frozenset[int] | None:
    """Ports of a Service or ServiceEntry; None where there is none of that name."""
    if ref.kind == "ServiceEntry":
        entry = world.inputs.service_entries.get(ref.key)
        return frozenset(one.number for one in entry.spec.ports or ()) if entry else None
    service = world.inputs.services.get(ref.key)
    return frozenset(one.port for one in service.spec.ports or ()) if service else None


def _refused(ref: ObjectRef, route: Route, backend: BackendReference, world: World) -> bool:
    """A route on a Gateway needs a grant for other namespaces; so does one on a Service of another
    namespace (a consumer route), or the waypoint would call anybody for its clients, by its own
    identity. The Service itself is free. A route on a Service of its own namespace needs none, as
    with Istio: the client could call the backend itself.
    """
    own = route.metadata.namespace
    parents = route.spec.parent_refs or ()
    on_gateway = any(parent.kind == "Gateway" for parent in parents)
    consumer = any(
        parent.kind != "Gateway" and parent.namespace not in ("", own) for parent in parents
    )
    free = {parent_ref(route, parent) for parent in parents if parent.kind != "Gateway"}
    if not (on_gateway or consumer):
        return False
    return any(
        target not in free
        and target.key.namespace != own
        and not _granted(ref.kind, own, target, world)
        for target in _led_to(route, backend, world, consumer=consumer)
    )


def _led_to(
    route: Route, backend: BackendReference, world: World, *, consumer: bool
) -> Iterable[ObjectRef]:
    """The objects that need a grant; a host is anybody's who speaks for it."""
    if backend.kind == "Hostname":
        return world.hosts.speakers(backend.name) if consumer else ()
    if backend.kind != "Service" and not consumer:
        return ()
    where = backend.namespace or route.metadata.namespace
    return (ObjectRef(backend.kind, ObjectKey(where, backend.name)),)


def _granted(kind: str, own: str, target: ObjectRef, world: World) -> bool:
    """Whether the target's namespace lets routes of this kind and namespace lead there."""
    groups = MESH_PARENTS.get(target.kind, ())
    return any(
        (GATEWAY_GROUP, kind, own)
        in {(one.group, one.kind, one.namespace) for one in grant.spec.from_}
        and any(
            one.group in groups
            and one.kind == target.kind
            and one.name in (None, "", target.key.name)
            for one in grant.spec.to
        )
        for grant in world.inputs.grants.by("namespace", target.key.namespace)
    )


def permitted(ref: ObjectRef, route: Route, config: ConfigObject, world: World) -> ConfigObject:
    """The route as waypoints get it: a refused reference leads nowhere."""
    rules: list[Any] = []
    changed = False
    raw_rules = config.object["spec"].get("rules") or []
    for raw, rule in zip(raw_rules, route.spec.rules or (), strict=True):
        refused = [
            field for field, backend in rule.references if _refused(ref, route, backend, world)
        ]
        changed = changed or bool(refused)
        rules.append(_marked(raw, refused) if refused else raw)
    if not changed:
        return config
    body = {**config.object, "spec": {**config.object["spec"], "rules": rules}}
    return msgspec.structs.replace(config, object=body)


def _marked(rule: Mapping[str, Any], refused: Collection[str]) -> dict[str, Any]:
    """A rule whose references in these fields lead nowhere."""
    made = {**rule, "backendRefs": list(rule.get("backendRefs") or ())}
    if "filters" in rule:
        made["filters"] = list(rule["filters"])
    for index, one in enumerate(made["backendRefs"]):
        if f"backendRefs[{index}]" in refused:
            made["backendRefs"][index] = {**one, "kind": REFUSED_KIND}
    for index, one in enumerate(made.get("filters") or ()):
        if f"filters[{index}]" in refused:
            field = "externalAuth" if one["type"] == "ExternalAuth" else "requestMirror"
            target = {**one[field]["backendRef"], "kind": REFUSED_KIND}
            made["filters"][index] = {**one, field: {**one[field], "backendRef": target}}
    return made


def _resolved_waypoint(route: Route, parent: RouteParent, world: World) -> Condition:
    """Whether a waypoint acts on the route, which no other part of the mesh can."""
    named = _name(parent, route)
    gateways = world.bindings.get(named).gateways
    problem = None
    if not gateways:
        text = f"{named} uses no waypoint (label {objects.USE_WAYPOINT_LABEL}): nobody routes"
        problem = _Problem("NoWaypoint", text)
    own = route.metadata.namespace
    whom = f" clients of {own}" if own != named.key.namespace else ""
    text = f"Waypoint {', '.join(map(str, gateways))} routes{whom}"
    return _condition("ResolvedWaypoints", problem, "ResolvedWaypoints", text)


def _condition(type_: str, problem: _Problem | None, reason: str, text: str) -> Condition:
    if problem is None:
        return Condition(type_, True, reason, text)
    return Condition(type_, False, problem.reason, problem.text)
