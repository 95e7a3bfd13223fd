"""Which L7 objects a waypoint needs: its own namespace's, and those of the services that use it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ambient.api.config import ConfigObject
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.waypoints import WAYPOINT_CLASS


def needed(
    waypoint: ObjectKey,
    services: Collection[ObjectKey],
    configs: Iterable[ConfigObject],
    facts: MeshFacts,
) -> dict[str, ConfigObject]:
    """By resource name, the objects that the waypoint compiles; ``services`` use it."""
    hosts = {facts.hostname(service): service.namespace for service in services}
    found = {}
    for config in configs:
        match config.kind:
            case "AuthorizationPolicy":
                wanted = _policy_is_for(config, waypoint, services, facts)
            case "HTTPRoute":
                wanted = _route_is_for(config, waypoint, services)
            case "VirtualService":
                homes = set(_namespaces_of(config, _hosts(config), hosts, facts))
                wanted = bool(homes) and config.namespace in {waypoint.namespace, *homes}
            case "DestinationRule":
                # A route of this waypoint may lead to any host: its own rules are all needed.
                homes = set(_namespaces_of(config, [_spec(config).get("host")], hosts, facts))
                wanted = config.namespace in {waypoint.namespace, *homes} or (
                    bool(homes) and config.namespace == facts.root_namespace
                )
            case _:
                wanted = False
        if wanted:
            found[config.key] = config
    return found


def _policy_is_for(
    config: ConfigObject, waypoint: ObjectKey, services: Collection[ObjectKey], facts: MeshFacts
) -> bool:
    spec = _spec(config)
    targets = _mappings([spec.get("targetRef"), *_items(spec.get("targetRefs"))])
    for target in targets:
        named = ObjectKey(config.namespace, str(target.get("name")))
        match target.get("kind"):
            case "Gateway" if named == waypoint:
                return True
            case "Service" if named in services:
                return True
            case "GatewayClass" if (
                config.namespace == facts.root_namespace and named.name == WAYPOINT_CLASS
            ):
                return True
    return False


def _route_is_for(
    config: ConfigObject, waypoint: ObjectKey, services: Collection[ObjectKey]
) -> bool:
    for parent in _mappings(_items(_spec(config).get("parentRefs"))):
        named = ObjectKey(str(parent.get("namespace") or config.namespace), str(parent.get("name")))
        kind = parent.get("kind") or "Gateway"
        if kind == "Gateway" and named == waypoint:
            return True
        if (
            kind == "Service"
            and named in services
            and config.namespace in (named.namespace, waypoint.namespace)
        ):
            return True
    return False


def _namespaces_of(
    config: ConfigObject, asked: Iterable[Any], hosts: dict[str, str], facts: MeshFacts
) -> Iterator[str]:
    """Namespaces of the served hosts that the object names, fully or as short names."""
    for text in asked:
        if not isinstance(text, str):
            continue
        if text.startswith("*"):
            yield from (home for host, home in hosts.items() if host.endswith(text[1:]))
            continue
        forms = {
            0: f"{text}.{config.namespace}.svc.{facts.cluster_domain}",
            1: f"{text}.svc.{facts.cluster_domain}",
            2: f"{text}.{facts.cluster_domain}",
        }
        for host in (text, forms.get(text.count("."), text)):
            if host in hosts:
                yield hosts[host]


def _hosts(config: ConfigObject) -> list[Any]:
    return _items(_spec(config).get("hosts"))


def _spec(config: ConfigObject) -> dict[str, Any]:
    spec = config.object.get("spec")
    return spec if isinstance(spec, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))
