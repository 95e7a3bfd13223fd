"""Istio's MeshConfig: ConfigMap ``istio`` of the system namespace, key ``mesh``, as far as the
index depends on it while it runs. Names and domains of the mesh are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
import yaml

from ambient.kube.core import objects
from ambient.kube.core.objects import Camel, LabelSelector, ObjectError
from ambient.kube.core.resources import KubeObject

CONFIG_MAP: Final = "istio"
KEY: Final = "mesh"
API_VERSION: Final = "mesh.istio.io/v1alpha1"


class EntryVisibility(StrEnum):
    """Who sees the hosts of a ServiceEntry."""

    PUBLIC = "PUBLIC"
    NAMESPACE = "NAMESPACE"
    NONE = "NONE"


class VisibilityRule(Camel, frozen=True):
    namespace_selector: LabelSelector = LabelSelector()


class VisibilityPolicy(Camel, frozen=True):
    """One of several, the first that matches counts."""

    visibility: EntryVisibility = EntryVisibility.PUBLIC
    matching_rules: tuple[VisibilityRule, ...] = ()


class ServiceEntryVisibility(Camel, frozen=True):
    default_visibility: EntryVisibility = EntryVisibility.PUBLIC
    policies: tuple[VisibilityPolicy, ...] = ()


class ServiceScope(StrEnum):
    """How far a Kubernetes Service is known."""

    LOCAL = "LOCAL"
    GLOBAL = "GLOBAL"


class ServiceScopeConfig(Camel, frozen=True):
    """A selector that is not there selects everything."""

    namespace_selector: LabelSelector = LabelSelector()
    services_selector: LabelSelector = LabelSelector()
    scope: ServiceScope = ServiceScope.LOCAL


GLOBAL_LABEL: Final = "istio.io/global"
DEFAULT_SCOPES: Final = (
    ServiceScopeConfig(
        services_selector=LabelSelector(match_labels={GLOBAL_LABEL: "true"}),
        scope=ServiceScope.GLOBAL,
    ),
)
"""Istio's ambient profile: services say it themselves."""


class MeshConfig(Camel, frozen=True):
    """The fields that we read; None or empty where the mesh does not say."""

    discovery_selectors: tuple[LabelSelector, ...] = ()
    service_entry_visibility: ServiceEntryVisibility | None = None
    service_scope_configs: tuple[ServiceScopeConfig, ...] = DEFAULT_SCOPES

    def is_global(
        self, namespace: Mapping[str, str] | None, service: Mapping[str, str] | None
    ) -> bool:
        """Whether other clusters know a service with these labels in a namespace with those: one
        GLOBAL entry that matches is enough, LOCAL ones take nothing back.
        """
        return any(
            one.scope is ServiceScope.GLOBAL
            and objects.matches(one.namespace_selector, dict(namespace or {}))
            and objects.matches(one.services_selector, dict(service or {}))
            for one in self.service_scope_configs
        )

    def discovers(self, labels: Mapping[str, str] | None) -> bool:
        """Whether objects of a namespace with these labels are part of the mesh."""
        selectors = self.discovery_selectors
        return not selectors or any(objects.matches(one, dict(labels or {})) for one in selectors)

    def visibility(self, labels: Mapping[str, str] | None) -> EntryVisibility:
        """Of the ServiceEntries in a namespace with these labels."""
        wanted = self.service_entry_visibility
        if wanted is None:
            return EntryVisibility.PUBLIC
        for policy in wanted.policies:
            for rule in policy.matching_rules:
                if objects.matches(rule.namespace_selector, dict(labels or {})):
                    return policy.visibility
        return wanted.default_visibility


def for_waypoints(config_map: KubeObject) -> KubeObject:
    """The whole configuration as an object of its own, which waypoints read themselves.

    Raises ObjectError as ``read`` does.
    """
    read(config_map)
    metadata: Any = config_map.get("metadata") or {}
    kept = {
        name: metadata[name] for name in ("name", "namespace", "generation") if name in metadata
    }
    loaded = yaml.safe_load(_text(config_map)) or {}
    spec = msgspec.to_builtins(loaded, builtin_types=(), str_keys=True)
    return {
        "apiVersion": API_VERSION,
        "kind": "MeshConfig",
        "metadata": kept,
        "spec": spec,
    }


def read(config_map: KubeObject) -> MeshConfig:
    """The configuration in its ConfigMap. Raises ObjectError that names the field."""
    metadata: Any = config_map.get("metadata") or {}
    name, namespace = str(metadata.get("name", "")), str(metadata.get("namespace", ""))
    try:
        loaded = yaml.safe_load(_text(config_map)) or {}
        return msgspec.convert(loaded, MeshConfig)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        reason = f"key {KEY}: {str(error).replace(' - at `$.', ' at `')}"
        raise ObjectError("ConfigMap", namespace, name, reason) from None


def _text(config_map: KubeObject) -> str:
    """The YAML; of a file, anything may stand in its place. Raises msgspec.ValidationError."""
    data = msgspec.convert(config_map.get("data") or {}, dict[str, Any])
    return msgspec.convert(data.get(KEY, ""), str)
