"""Strategic merge of what users lay over the objects of a waypoint (kubernetes.io, "Strategic
merge patch"), for the kinds that a waypoint has.
"""

from __future__ import annotations

from typing import Any, Final

from ambient.kube.core.resources import KubeObject

DIRECTIVE: Final = "$patch"
_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists whose items merge with their namesakes; other lists are replaced."""


def merge(base: Any, patch: Any, name: str = "") -> Any:
    """``patch`` laid over ``base``; neither is changed. ``None`` removes a field."""
    if isinstance(patch, dict):
        return _merge_mapping(base if isinstance(base, dict) else {}, patch, name)
    if isinstance(patch, list) and isinstance(base, list):
        return _merge_list(base, patch, name)
    return patch


def _merge_mapping(base: KubeObject, patch: KubeObject, name: str) -> KubeObject:
    if patch.get(DIRECTIVE) == "replace":
        return {key: value for key, value in patch.items() if key != DIRECTIVE}
    merged = dict(base)
    for key, value in patch.items():
        gone = value is None or (isinstance(value, dict) and value.get(DIRECTIVE) == "delete")
        if gone:
            merged.pop(key, None)
        elif key != DIRECTIVE:
            # Ports of a container and of a Service have different keys.
            inner = f"{name}.ports" if key == "ports" else key
            merged[key] = merge(merged.get(key), value, inner)
    return merged


def _merge_list(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    key = _KEYS.get(name)
    if name.endswith(".ports"):
        key = "containerPort" if name == "containers.ports" else "port"
    items = [one for one in patch if isinstance(one, dict)]
    if any(one == {DIRECTIVE: "replace"} for one in items):
        return [one for one in patch if one != {DIRECTIVE: "replace"}]
    if key is None or len(items) < len(patch):
        return patch
    merged = {one.get(key): one for one in base}
    for one in items:
        if one.get(DIRECTIVE) == "delete":
            merged.pop(one.get(key), None)
        else:
            merged[one.get(key)] = _merge_mapping(merged.get(one.get(key), {}), one, name)
    return list(merged.values())
