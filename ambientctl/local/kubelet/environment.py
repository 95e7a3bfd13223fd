"""The environment and command line of a container."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from ambient.kube.core.resources import CONFIG_MAPS, SECRETS, KubeObject, Resource
from ambientctl.local.kubelet.fields import FieldError, expand, field_value, resource_value
from ambientctl.local.layout import API_SERVICE_ADDRESS, CONTAINER_PATH

Lookup = Callable[[Resource, str, str], KubeObject | None]
"""Kind, namespace and name to object."""


def base_environment(pod: Mapping[str, Any]) -> dict[str, str]:
    """What an image and the kubelet would give every container."""
    return {
        "PATH": CONTAINER_PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
        # The programs write logs to a pipe; without this they would sit in a buffer.
        "PYTHONUNBUFFERED": "1",
        "KUBERNETES_SERVICE_HOST": API_SERVICE_ADDRESS,
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": f"tcp://{API_SERVICE_ADDRESS}:443",
    }


def build_environment(
    pod: Mapping[str, Any], container: Mapping[str, Any], status: Mapping[str, Any], find: Lookup
) -> dict[str, str]:
    """The container's environment. Raises FieldError for a reference to something absent."""
    namespace = pod["metadata"]["namespace"]
    values = base_environment(pod)
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix", "")
        for name, value in _whole_object(source, namespace, find).items():
            values[prefix + name] = value
    for entry in container.get("env") or []:
        source = entry.get("valueFrom")
        if source is None:
            values[entry["name"]] = expand(entry.get("value") or "", values)
            continue
        found = _from_source(source, pod, container, status, find)
        if found is not None:
            values[entry["name"]] = found
    return values


def command_line(container: Mapping[str, Any], values: Mapping[str, str]) -> list[str]:
    """``command`` and ``args`` with references replaced. There are no images to fall back on.

    Raises FieldError where the container names no command.
    """
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if not container.get("command"):
        raise FieldError(
            f"container {container['name']!r} has no command",
            hint="the local mesh has no images: name a program of this machine in `command`",
        )
    return [expand(word, values) for word in words]


def _whole_object(source: Mapping[str, Any], namespace: str, find: Lookup) -> dict[str, str]:
    kind, reference = (
        (CONFIG_MAPS, source["configMapRef"])
        if "configMapRef" in source
        else (SECRETS, source.get("secretRef") or {})
    )
    found = find(kind, namespace, reference.get("name", ""))
    if found is None:
        if reference.get("optional"):
            return {}
        raise FieldError(f"{kind.kind} {namespace}/{reference.get('name', '')} does not exist")
    return {key: data.decode(errors="replace") for key, data in object_data(found).items()}


def _from_source(
    source: Mapping[str, Any],
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    status: Mapping[str, Any],
    find: Lookup,
) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, status, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(container, source["resourceFieldRef"]["resource"])
    for key, kind in (("configMapKeyRef", CONFIG_MAPS), ("secretKeyRef", SECRETS)):
        if key in source:
            return _one_key(source[key], kind, pod["metadata"]["namespace"], find)
    raise FieldError(f"valueFrom knows no {', '.join(source) or 'source'}")


def _one_key(
    reference: Mapping[str, Any], kind: Resource, namespace: str, find: Lookup
) -> str | None:
    found = find(kind, namespace, reference["name"])
    data = object_data(found) if found else {}
    if reference["key"] in data:
        return data[reference["key"]].decode(errors="replace")
    if reference.get("optional"):
        return None
    raise FieldError(
        f"{kind.kind} {namespace}/{reference['name']} has no key {reference['key']!r}"
        if found
        else f"{kind.kind} {namespace}/{reference['name']} does not exist"
    )


def object_data(obj: KubeObject) -> dict[str, bytes]:
    """The keys of a ConfigMap or a Secret as bytes."""
    if obj.get("kind", "") == "Secret" or "type" in obj:
        return {key: base64.b64decode(text) for key, text in (obj.get("data") or {}).items()}
    data = {key: text.encode() for key, text in (obj.get("data") or {}).items()}
    binary = {key: base64.b64decode(text) for key, text in (obj.get("binaryData") or {}).items()}
    return data | binary
