"""Which L7 objects a waypoint needs: its own namespace's, and those of the services that use it.

Kept the other way round: each object knows its waypoints, and under what it has to be looked at
again, so that a change costs what depends on it and not the number of waypoints or objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final

from ambient.api.config import ConfigObject
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import BACKEND_POLICY_KINDS, ROUTE_KINDS, TARGETED_KINDS, backends_of
from istiod_lite.core.route_status import attaches
from istiod_lite.core.waypoints import WAYPOINT_CLASS, is_waypoint
from istiod_lite.core.world import World

EVERY_WAYPOINT: Final = "every waypoint"
POLICY_KINDS: Final = ("AuthorizationPolicy", *TARGETED_KINDS)
WILDCARDS: Final = "hosts with wildcards"


class WaypointConfigs:
    """Objects by waypoint, and waypoints by object."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names: defaultdict[ObjectKey, dict[str, None]] = defaultdict(dict)
        self._waypoints: dict[str, frozenset[ObjectKey]] = {}
        self._interests: dict[str, frozenset[Hashable]] = {}
        self._interested: defaultdict[Hashable, dict[str, None]] = defaultdict(dict)
        self._dirty: dict[str, None] = {}
        self._leaves: dict[str, frozenset[str]] = {}
        self._roots: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def of(self, waypoint: ObjectKey) -> Iterable[str]:
        """Names of the objects that a waypoint needs."""
        return tuple(self._names.get(waypoint, ()))

    def waypoints_of(self, name: str) -> frozenset[ObjectKey]:
        """The waypoints that need an object."""
        return self._waypoints.get(name, frozenset())

    def put(self, name: str, config: ConfigObject | None) -> frozenset[ObjectKey]:
        """An object is new, different or (None) gone; the waypoints that had it."""
        interests = frozenset(self._interests_of(config)) if config is not None else frozenset()
        for gone in self._interests.pop(name, frozenset()) - interests:
            self._interested[gone].pop(name, None)
            if not self._interested[gone]:
                del self._interested[gone]
        for interest in interests:
            self._interested[interest][name] = None
        if interests:
            self._interests[name] = interests
        self._dirty[name] = None
        self._leave_rules(name, config)
        return self._waypoints.get(name, frozenset())

    def _leave_rules(self, name: str, config: ConfigObject | None) -> None:
        """Note to whom a VirtualService leaves rules."""
        now = frozenset(_delegates(config)) if config is not None else frozenset()
        before = self._leaves.pop(name, frozenset())
        if now:
            self._leaves[name] = now
        for delegate in before - now:
            self._roots[delegate].pop(name)
        for delegate in now - before:
            self._roots[delegate][name] = None
        for delegate in before ^ now:
            self.touch_name(delegate)

    def touch(self, *things: Hashable) -> None:
        """Something that objects name has changed: an ObjectRef, a hostname, a namespace's
        waypoints, or one of this module's constants.
        """
        for thing in things:
            self._dirty |= self._interested.get(thing, {})

    def touch_name(self, name: str) -> None:
        """One object has to be looked at again."""
        if name in self._world.inputs.configs:
            self._dirty[name] = None

    def settle(self) -> set[ObjectKey]:
        """Look at what is open; the waypoints that gained or lost an object."""
        changed: set[ObjectKey] = set()
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for name in dirty:
                moved = self._look_at(name)
                changed |= moved
                if moved:
                    for delegate in self._leaves.get(name, ()):
                        self.touch_name(delegate)  # goes where its roots go
                    self._touch_backends(name)
        return changed

    def _touch_backends(self, name: str) -> None:
        """What is said about the backends of a route goes where the route goes."""
        kind, namespace, route = name.split("/", 2)
        found = self._world.inputs.routes.get(ObjectRef(kind, ObjectKey(namespace, route)))
        for backend in backends_of(found) if found is not None else ():
            self.touch(backend, *self._world.hosts.of(backend))

    def _look_at(self, name: str) -> frozenset[ObjectKey]:
        """Decide anew who needs an object; the waypoints for which that changed."""
        config = self._world.inputs.configs.get(name)
        before = self._waypoints.pop(name, frozenset())
        after = frozenset(self._waypoints_of(config)) if config is not None else frozenset()
        if after:
            self._waypoints[name] = after
        for waypoint in before - after:
            del self._names[waypoint][name]
            if not self._names[waypoint]:
                del self._names[waypoint]
        for waypoint in after - before:
            self._names[waypoint][name] = None
        return before ^ after

    # What an object names, and which waypoints that makes.

    def _interests_of(self, config: ConfigObject) -> Iterator[Hashable]:
        match config.kind:
            case "MeshConfig":
                yield EVERY_WAYPOINT
            case kind if kind in POLICY_KINDS:
                for target in self._targets(config):
                    yield target if target.kind != "GatewayClass" else EVERY_WAYPOINT
                if kind == "Telemetry" and config.namespace == self._world.facts.root_namespace:
                    yield EVERY_WAYPOINT
                elif kind == "Telemetry":
                    yield ("waypoints of", config.namespace)
                    yield ("services of", config.namespace)
            case kind if kind in ROUTE_KINDS:
                yield from _parents(config)
            case kind if kind in BACKEND_POLICY_KINDS:
                yield ("waypoints of", config.namespace)
                yield from self._targets(config)
            case _:
                if config.kind == "DestinationRule":
                    yield ("waypoints of", config.namespace)
                for text in _hosts(config):
                    if text.startswith("*"):
                        yield WILDCARDS
                    else:
                        yield from self._forms(text, config.namespace)

    def _waypoints_of(self, config: ConfigObject) -> Iterator[ObjectKey]:
        world = self._world
        match config.kind:
            case "MeshConfig":
                found = iter(world.inputs.gateways)
            case kind if kind in POLICY_KINDS:
                found = self._of_policy(config)
            case kind if kind in ROUTE_KINDS:
                found = self._of_route(config)
            case kind if kind in BACKEND_POLICY_KINDS:
                found = self._of_backend_policy(config)
            case "VirtualService" if not _hosts(config):
                roots = self._roots.get(config.key, {})
                found = (key for root in roots for key in self._waypoints.get(root, ()))
            case "VirtualService":
                found = self._of_hosts(config, everywhere=False)
            case _:
                # A route of a waypoint may lead to any host: its own rules are all needed.
                root = config.namespace == world.facts.root_namespace
                own = world.inputs.gateways.keys_by("namespace", config.namespace)
                routed = self._of_routes_to(self._speakers(config))
                found = iter((*own, *self._of_hosts(config, everywhere=root), *routed))
        for key in found:
            gateway = world.inputs.gateways.get(key)
            if gateway is not None and is_waypoint(gateway):
                yield key

    def _of_policy(self, config: ConfigObject) -> Iterator[ObjectKey]:
        world = self._world
        wanted = list(self._targets(config))
        if not wanted:
            yield from self._of_namespace(config.namespace)
        for target in wanted:
            match target.kind:
                case "Gateway":
                    yield target.key
                case "Service" | "ServiceEntry":
                    yield from world.bindings.get(target).gateways
                case "GatewayClass" if (
                    config.namespace == world.facts.root_namespace
                    and target.key.name == WAYPOINT_CLASS
                ):
                    yield from world.inputs.gateways

    def _of_backend_policy(self, config: ConfigObject) -> Iterator[ObjectKey]:
        """Whoever may call a target: its waypoints, those whose routes lead there, and those of
        its namespace, whose VirtualServices may."""
        world = self._world
        yield from world.inputs.gateways.keys_by("namespace", config.namespace)
        for target in self._targets(config):
            yield from world.bindings.get(target).gateways
        yield from self._of_routes_to(self._targets(config))

    def _of_routes_to(self, backends: Iterable[ObjectRef]) -> Iterator[ObjectKey]:
        for backend in backends:
            for route in self._world.inputs.routes.keys_by("backend", backend):
                yield from self.waypoints_of(f"{route.kind}/{route.key}")

    def _of_namespace(self, namespace: str) -> Iterator[ObjectKey]:
        """The waypoints in a namespace, and those of its services; of the root one, all."""
        world = self._world
        if namespace == world.facts.root_namespace:
            yield from world.inputs.gateways
            return
        yield from world.inputs.gateways.keys_by("namespace", namespace)
        for ref, binding in world.bindings.items():
            if ref.key.namespace == namespace:
                yield from binding.gateways

    def _of_route(self, config: ConfigObject) -> Iterator[ObjectKey]:
        world = self._world
        ref = ObjectRef(config.kind, ObjectKey(config.namespace, config.name))
        route = world.inputs.routes.get(ref)
        if route is None:
            return
        for parent in _parents(config):
            if parent.kind == "Gateway":
                if attaches(ref, route, parent.key, world):
                    yield parent.key
                continue
            yield from world.bindings.get(parent).gateways

    def _of_hosts(self, config: ConfigObject, *, everywhere: bool) -> Iterator[ObjectKey]:
        for ref in self._speakers(config):
            for gateway in self._world.bindings.get(ref).gateways:
                if everywhere or config.namespace in (gateway.namespace, ref.key.namespace):
                    yield gateway

    def _speakers(self, config: ConfigObject) -> Iterator[ObjectRef]:
        hosts = self._world.hosts
        for text in _hosts(config):
            if text.startswith("*"):
                for ref, _ in self._world.bindings.items():
                    if any(host.endswith(text[1:]) for host in hosts.of(ref)):
                        yield ref
            else:
                for host in self._forms(text, config.namespace):
                    yield from hosts.speakers(host)

    def _forms(self, text: str, namespace: str) -> set[str]:
        """A host as it is, and as the short name of a Kubernetes Service."""
        domain = self._world.facts.cluster_domain
        short = {
            0: f"{text}.{namespace}.svc.{domain}",
            1: f"{text}.svc.{domain}",
            2: f"{text}.{domain}",
        }
        return {text, short.get(text.count("."), text)}

    def _targets(self, config: ConfigObject) -> Iterator[ObjectRef]:
        spec = _spec(config)
        for target in _mappings([spec.get("targetRef"), *_items(spec.get("targetRefs"))]):
            kind = str(target.get("kind"))
            where = "" if kind == "GatewayClass" else config.namespace
            yield ObjectRef(kind, ObjectKey(where, str(target.get("name"))))


def _parents(config: ConfigObject) -> Iterator[ObjectRef]:
    for parent in _mappings(_items(_spec(config).get("parentRefs"))):
        namespace = str(parent.get("namespace") or config.namespace)
        key = ObjectKey(namespace, str(parent.get("name")))
        yield ObjectRef(str(parent.get("kind") or "Gateway"), key)


def _delegates(config: ConfigObject) -> Iterator[str]:
    """Keys of the VirtualServices that a VirtualService leaves rules to."""
    if config.kind != "VirtualService":
        return
    for rule in _mappings(_items(_spec(config).get("http"))):
        for spec in _mappings([rule.get("delegate")]):
            yield f"VirtualService/{spec.get('namespace') or config.namespace}/{spec.get('name')}"


def _hosts(config: ConfigObject) -> list[str]:
    spec = _spec(config)
    found = [spec.get("host")] if config.kind == "DestinationRule" else _items(spec.get("hosts"))
    return [text for text in found if isinstance(text, str)]


def _spec(config: ConfigObject) -> dict[str, Any]:
    spec = config.object.get("spec")
    return spec if isinstance(spec, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))
