"""How a waypoint is run, beyond its Gateway: the mesh's settings, then ConfigMaps with defaults of
its class, then the ConfigMap that the Gateway names (``spec.infrastructure.parametersRef``).

A ConfigMap has plain keys for what nearly everybody wants to set, and Istio's keys with YAML that
is laid over the objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import Meta

from ambient.api.errors import MeshError
from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.overlay import merge

DEFAULTS_LABEL: Final = "gateway.istio.io/defaults-for-class"
OVERLAYS: Final = (
    "deployment",
    "service",
    "serviceAccount",
    "horizontalPodAutoscaler",
    "podDisruptionBudget",
)
"""Keys with YAML (Istio's names)."""


class ParametersError(MeshError):
    """A ConfigMap cannot be used; the waypoint stays as it is."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The plain keys, by their names in the ConfigMap."""

    replicas: Annotated[int, Meta(ge=0, le=1000)] = 2
    max_replicas: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Above ``replicas``: a HorizontalPodAutoscaler goes up to it."""
    cpu_percent: Annotated[int, Meta(ge=1, le=1000)] = 80
    """Of the requested CPU, which the autoscaler keeps."""
    max_unavailable: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Pods that an eviction may take at a time; 0 for no PodDisruptionBudget."""
    grace_seconds: Annotated[int, Meta(ge=0, le=3600)] = 30
    """For open requests after SIGTERM."""
    spread: Literal["preferred", "required", "none"] = "preferred"
    """Whether pods of a waypoint avoid each other's nodes and zones."""
    overlays: dict[str, KubeObject] = {}

    @property
    def autoscaled(self) -> bool:
        """Whether the number of pods is the autoscaler's."""
        return self.max_replicas > self.replicas or "horizontalPodAutoscaler" in self.overlays


_PLAIN: Final = {
    field.encode_name: field.type
    for field in msgspec.structs.fields(Parameters)
    if field.name != "overlays"
}


def problem_of_reference(gateway: objects.Gateway) -> str:
    """Why the Gateway's parametersRef cannot be followed, empty if it can or there is none."""
    infrastructure = gateway.spec.infrastructure
    ref = infrastructure.parameters_ref if infrastructure is not None else None
    if ref is None or (ref.group, ref.kind) == ("", "ConfigMap"):
        return ""
    return f"parametersRef names a {ref.group}/{ref.kind}: only ConfigMaps are understood"


def reference(gateway: objects.Gateway) -> str:
    """The name of the ConfigMap that the Gateway names; empty for none."""
    infrastructure = gateway.spec.infrastructure
    ref = infrastructure.parameters_ref if infrastructure is not None else None
    return ref.name if ref is not None and not problem_of_reference(gateway) else ""


def read(config_maps: Iterable[KubeObject], base: Parameters) -> Parameters:
    """``base`` with the ConfigMaps laid over it in order. Raises ParametersError."""
    for config_map in config_maps:
        metadata = config_map["metadata"]
        name = f"ConfigMap {metadata.get('namespace', '')}/{metadata['name']}"
        base = _laid_over(base, config_map.get("data") or {}, name)
    return base


def _laid_over(base: Parameters, data: Mapping[str, str], name: str) -> Parameters:
    plain: dict[str, Any] = {}
    overlays = dict(base.overlays)
    for key, text in data.items():
        if key in _PLAIN:
            plain[_field(key)] = _plain(key, text.strip(), name)
        elif key in OVERLAYS:
            overlays[key] = merge(overlays.get(key, {}), _yaml(key, text, name))
        else:
            known = ", ".join((*_PLAIN, *OVERLAYS))
            raise ParametersError(f"{name}: key {key} is unknown", hint=f"known are {known}")
    return msgspec.structs.replace(base, overlays=overlays, **plain)


def _field(key: str) -> str:
    return next(one.name for one in msgspec.structs.fields(Parameters) if one.encode_name == key)


def _plain(key: str, text: str, name: str) -> Any:
    try:
        return msgspec.convert(text, _PLAIN[key], strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)[:1].lower() + str(error)[1:]
        raise ParametersError(
            f"{name}: {key}={text!r} cannot be used: {reason}", hint=f"correct {key}"
        ) from None


def _yaml(key: str, text: str, name: str) -> KubeObject:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ParametersError(
            f"{name}: {key} is no YAML: {reason}", hint=f"correct {key}"
        ) from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ParametersError(f"{name}: {key} is no object", hint=f"give {key} fields of its kind")
    return loaded or {}
