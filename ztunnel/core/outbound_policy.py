"""``outboundTrafficPolicy`` of the mesh: may pods reach what the mesh does not know?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ambient.api.errors import MeshError

FIELD: Final = "outboundTrafficPolicy"
MODES: Final = ("ALLOW_ANY", "REGISTRY_ONLY")


class OutboundPolicyError(MeshError):
    """The policy cannot be read."""


def registry_only(spec: object) -> bool:
    """Whether a mesh configuration says REGISTRY_ONLY. Raises OutboundPolicyError."""
    policy = spec.get(FIELD) if isinstance(spec, Mapping) else None
    mode = policy.get("mode") if isinstance(policy, Mapping) else None
    if mode not in (*MODES, None):
        raise OutboundPolicyError(
            f"{FIELD}.mode of the mesh configuration: {mode!r} is unknown",
            hint=f"write {' or '.join(MODES)}",
        )
    return mode == "REGISTRY_ONLY"


def read(content: bytes) -> bool:
    """The same of the configuration's YAML. Raises OutboundPolicyError."""
    if FIELD.encode() not in content:
        return False
    import yaml  # costs 1 MB that other tunnels do not need

    try:
        return registry_only(yaml.safe_load(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise OutboundPolicyError(
            f"the mesh configuration is no YAML: {first}", hint="correct the ConfigMap istio"
        ) from None
