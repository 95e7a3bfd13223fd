"""Which lists merge by a key. The only file that knows the lists of the built-in kinds.

Strategic merge patches and server-side apply disagree in details (one key against two for ports),
as they do in Kubernetes: the first follows the Go struct tags, the second the list types.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ambientctl.local.apiserver.core.kinds import Kind

Path = tuple[str, ...]
"""Field names from the root of the object; list items add nothing."""

SET: Final = ("",)
"""The key of a list of scalars that merges by value."""
ATOMIC: Final[tuple[str, ...]] = ()
"""The key of a list that is replaced as a whole."""

_BY_NAME: Final[dict[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "resourceClaims": ("name",),
    "finalizers": SET,
}


def apply_keys(kind: Kind, path: Path) -> tuple[str, ...]:
    """The keys of a list under server-side apply: ATOMIC, SET or field names."""
    if kind.custom and path[0] != "metadata":
        return _schema_keys(kind.schema, path)
    match path[-1]:
        case "ports" if "containers" in path or "initContainers" in path:
            return ("containerPort", "protocol")
        case "ports" if kind.kind == "Service":
            return ("port", "protocol")
        case "addresses" if kind.kind == "Node":
            return ("type",)
        case "secrets" if kind.kind == "ServiceAccount":
            return ("name",)
        case name:
            return _BY_NAME.get(name, ATOMIC)


def patch_keys(kind: Kind, path: Path) -> tuple[str, ...]:
    """The key of a list under a strategic merge patch; never more than one field."""
    return apply_keys(kind, path)[:1]


def _schema_keys(schema: Any, path: Path) -> tuple[str, ...]:
    """Follow a structural schema to the list and read its x-kubernetes-list-type."""
    for name in path:
        while isinstance(schema, dict) and schema.get("type") == "array":
            schema = schema.get("items")
        if not isinstance(schema, dict):
            return ATOMIC
        schema = (schema.get("properties") or {}).get(name) or schema.get("additionalProperties")
    match schema:
        case {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [*keys]}:
            return tuple(keys)
        case {"x-kubernetes-list-type": "set"}:
            return SET
        case _:
            return ATOMIC


DEFAULT_KEY_VALUES: Final[dict[str, str]] = {"protocol": "TCP"}
"""A key field that may be left out counts as its default."""


def item_key(item: Any, keys: tuple[str, ...]) -> str:
    """What identifies one item of a merging list: JSON text, as ``fieldsV1`` spells it."""
    if keys != SET and isinstance(item, dict):
        values = {key: item.get(key, DEFAULT_KEY_VALUES.get(key)) for key in keys}
        item = {key: value for key, value in values.items() if value is not None}
    return msgspec.json.encode(item, order="sorted").decode()
