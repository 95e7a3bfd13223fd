"""Pods whose traffic a policy of routing takes away from their node: AWS security groups for pods.

Amazon's network plugin gives such a pod a network interface of its own (branch ENI), and sends
all that leaves the pod's device there: ``iif vlan… lookup T`` where T is not the main table, and
the pod's own route is in T alone. A health probe comes from an address that only the node knows;
so two rules keep it on the node: ``to POD lookup T``, and ``iif DEVICE lookup local`` for answers.
Priorities are those of Istio's agent (istio/istio pull request 59778).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from ambient.api.address import IPAddress

MAIN_TABLE: Final = 254
LOCAL_TABLE: Final = 255
TO_POD_PRIORITY: Final = 512
"""As the plugin's own for pods without such an interface."""
OURS: Final = 0x39
"""Marks rules that we have made (``proto`` in ``ip rule``); nobody has it in linux/rtnetlink.h."""


class PolicyRule(NamedTuple):
    """A rule that chooses a routing table, by device or destination."""

    version: Literal[4, 6]
    priority: int
    table: int
    device: str = ""
    to: IPAddress | None = None
    protocol: int = OURS


class HostRoute(NamedTuple):
    """The route to one address."""

    ip: IPAddress
    table: int
    device: str


class Change(NamedTuple):
    """What has to be done for the probes; false where nothing has."""

    add: frozenset[PolicyRule]
    remove: frozenset[PolicyRule]

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def change(
    present: Iterable[PolicyRule], routes: Iterable[HostRoute], probed: Iterable[IPAddress]
) -> Change:
    """Rules for the probed addresses that need them; ours that nobody needs any more go."""
    present = frozenset(present)
    wanted = frozenset(_wanted(present, routes, frozenset(probed)))
    there = {rule._replace(protocol=OURS) for rule in present}
    ours = {rule for rule in present if rule.protocol == OURS}
    return Change(wanted - there, frozenset(ours - wanted))


def _wanted(
    present: frozenset[PolicyRule], routes: Iterable[HostRoute], probed: frozenset[IPAddress]
) -> Iterable[PolicyRule]:
    steering = {
        (rule.version, rule.device, rule.table): rule.priority
        for rule in sorted(present, key=lambda each: each.priority, reverse=True)
        if rule.device and rule.protocol != OURS and rule.table not in (MAIN_TABLE, LOCAL_TABLE)
    }
    for route in routes:
        version: Literal[4, 6] = 4 if route.ip.version == 4 else 6
        priority = steering.get((version, route.device, route.table))
        if route.ip in probed and priority is not None:
            yield PolicyRule(version, TO_POD_PRIORITY, route.table, to=route.ip)
            yield PolicyRule(version, max(priority - 1, 0), LOCAL_TABLE, route.device)
