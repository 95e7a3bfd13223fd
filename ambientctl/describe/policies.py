"""The policies of a workload: who enforces each, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ambient.api.policy import Authorization
from ambient.api.workload import Workload
from ambientctl.describe.view import View
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.peer_authentication import CONVERTED_PREFIX, STATIC_STRICT
from waypoint.core.authz_rules import Policy


class Row(NamedTuple):
    """One policy at one enforcer."""

    action: str
    """DENY, ALLOW, CUSTOM; LOG for a dry run, as istioctl calls it."""
    policy: str
    """``name.namespace``."""
    rules: int
    by: str
    kind: str = "AuthorizationPolicy"


ADMISSION_PREFIX: Final = "istio_allow_waypoint_"
"""Of the policies that the control plane makes for waypoints (``waypoints.policy_key``)."""
ORDER: Final = ("CUSTOM", "DENY", "ALLOW", "LOG")
"""As proxies ask them."""


def of_workload(view: View, workload: Workload) -> Iterator[Row]:
    """At the node tunnel of the workload."""
    found = view.mesh.state.policies_for(workload)
    for one in found.all:
        yield _l4(one.policy)


def of_service(view: View, namespace: str, name: str) -> Iterator[Row]:
    """At the waypoints of a service."""
    service = view.service(namespace, name)
    binding = view.binding(ObjectRef("Service", ObjectKey(namespace, name)))
    if service is None:
        return
    for gateway in binding.gateways:
        found = view.at_waypoint(gateway, service)
        by = f"waypoint {gateway}"
        yield from (_l7(one, one.effect.name, by) for one in found.denying)
        yield from (_l7(one, "ALLOW", by) for one in found.allowing)
        yield from (_l7(one, "LOG", by) for one in found.dry_run)


def services_of(view: View, workload: Workload) -> list[ObjectKey]:
    """The Services in front of a workload."""
    found = []
    for key in workload.services:
        service = view.corpus.index.services.get(f"{key.namespace}/{key.hostname}")
        if service is not None and view.corpus.get("Service", key.namespace, service.name):
            found.append(ObjectKey(key.namespace, service.name))
    return sorted(found)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By enforcer, then as they are asked."""
    return sorted(rows, key=lambda row: (row.by, ORDER.index(row.action), row.policy))


def _l4(policy: Authorization) -> Row:
    action = "LOG" if policy.dry_run else policy.action.name
    kind = "AuthorizationPolicy"
    if policy.name == STATIC_STRICT or policy.name.startswith(CONVERTED_PREFIX):
        kind = "PeerAuthentication"
    elif policy.name.startswith(ADMISSION_PREFIX):
        kind = "admission of a waypoint"
    name = f"{policy.name}.{policy.namespace}"
    return Row(action, name, len(policy.groups), "tunnel", kind)


def _l7(policy: Policy, action: str, by: str) -> Row:
    namespace, _, name = policy.key.partition("/")
    return Row(action, f"{name}.{namespace}", len(policy.rules), by)
