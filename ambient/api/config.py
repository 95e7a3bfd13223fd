"""A Kubernetes object that configures L7, as the control plane hands it to a waypoint."""

from __future__ import annotations

from typing import Any

import msgspec


class ConfigObject(msgspec.Struct, frozen=True, kw_only=True):
    """One VirtualService, DestinationRule, HTTPRoute, AuthorizationPolicy, ... as it is stored.

    ``object`` is the whole decoded JSON; the other fields repeat what names and orders it.
    """

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    generation: int = 0
    object: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """``kind/namespace/name``: the xDS resource name."""
        return f"{self.kind}/{self.namespace}/{self.name}"
