"""Values that a pod's specification refers to: downward API fields and ``$(VAR)`` references."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ambient.api.errors import MeshError

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z0-9_.-]+)\)")
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class FieldError(MeshError):
    """The specification names a field or a key that is not there."""


def field_value(pod: Mapping[str, Any], status: Mapping[str, Any], path: str) -> str:
    """The downward API's ``fieldRef``. ``status`` holds what the kubelet knows newer than the pod.

    Raises FieldError for a path that Kubernetes does not offer.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    indexed = _INDEXED.fullmatch(path)
    if indexed:
        return str((metadata.get(indexed[1]) or {}).get(indexed[2], ""))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata["uid"],
        "metadata.labels": _key_values(metadata.get("labels") or {}),
        "metadata.annotations": _key_values(metadata.get("annotations") or {}),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": status.get("hostIP", ""),
        "status.hostIPs": status.get("hostIP", ""),
        "status.podIP": status.get("podIP", ""),
        "status.podIPs": status.get("podIP", ""),
    }
    if path not in values:
        raise FieldError(f"fieldRef {path!r} is not a field of the downward API")
    return str(values[path])


def resource_value(container: Mapping[str, Any], name: str) -> str:
    """``resourceFieldRef``: the container's own limit or request, "0" where it sets none.

    Nothing is limited in the local mesh; the value is only handed on.
    """
    kind, _, resource = name.partition(".")
    if kind not in ("limits", "requests"):
        raise FieldError(f"resourceFieldRef {name!r} is neither limits.* nor requests.*")
    resources = container.get("resources") or {}
    chosen = resources.get(kind) or resources.get("limits") or {}
    text = str(chosen.get(resource, "0"))
    if resource == "cpu" and text.endswith("m"):
        return str(-(-int(text[:-1]) // 1000))  # Kubernetes rounds up with divisor 1
    for suffix, factor in (("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)):
        if text.endswith(suffix):
            return str(int(text.removesuffix(suffix)) * factor)
    return text


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; unknown names stay as they are, ``$$`` is one dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def _key_values(pairs: Mapping[str, str]) -> str:
    """A map as a downward API file shows it: ``key="value"`` lines, sorted."""
    lines = []
    for key, value in sorted(pairs.items()):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'{key}="{escaped}"')
    return "\n".join(lines)
