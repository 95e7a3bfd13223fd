"""Policies whose targets have no waypoint: nobody enforces them, so somebody has to say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ambient.kube.core import objects
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.inputs import Inputs
from istiod_lite.core.waypoints import WAYPOINT_CLASS, Binding, is_waypoint


def unenforced(
    policy: objects.AuthorizationPolicy,
    inputs: Inputs,
    bindings: Mapping[ObjectKey, Binding],
    root_namespace: str,
) -> Iterator[str]:
    """One sentence for each target of the policy at which no waypoint enforces it."""
    namespace = policy.metadata.namespace
    for target in policy.spec.targets:
        key = ObjectKey(namespace, target.name)
        if target.namespace not in ("", namespace):
            yield f"{target.kind} {target.name}: a policy may only target its own namespace"
            continue
        match target.kind:
            case "Service":
                yield from _service(key, inputs, bindings)
            case "Gateway":
                gateway = inputs.gateways.get(key)
                if gateway is None or not is_waypoint(gateway):
                    yield f"there is no waypoint {key}: nothing enforces the policy"
            case "GatewayClass":
                if target.name != WAYPOINT_CLASS or namespace != root_namespace:
                    yield (
                        f"a policy for GatewayClass {WAYPOINT_CLASS} belongs into "
                        f"{root_namespace}: nothing enforces it here"
                    )
            case _:
                yield f"target kind {target.kind} is not supported: nothing enforces the policy"


def _service(
    key: ObjectKey, inputs: Inputs, bindings: Mapping[ObjectKey, Binding]
) -> Iterator[str]:
    binding = bindings.get(key)
    if inputs.services.get(key) is None:
        yield f"there is no Service {key}: nothing enforces the policy"
    elif binding is None:
        yield (
            f"Service {key} uses no waypoint (label {objects.USE_WAYPOINT_LABEL}): "
            "nothing enforces the policy"
        )
    elif binding.address is None:
        yield (
            f"Service {key} is not bound to waypoint {binding.gateway} "
            f"({binding.reason.value}): nothing enforces the policy"
        )
