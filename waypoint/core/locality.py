"""Which endpoints are nearer: priorities and weights by locality (Istio)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from ambient.api.service import LoadBalancing, Mode, Scope
from ambient.api.workload import Locality, Workload
from waypoint.core.load_balancer import MESH_LOCALITY, LocalitySetting

TOPOLOGY: Final = {
    "topology.istio.io/network": lambda one: one.network,
    "topology.kubernetes.io/region": lambda one: one.locality.region,
    "topology.kubernetes.io/zone": lambda one: one.locality.zone,
    "topology.istio.io/subzone": lambda one: one.locality.subzone,
    "topology.istio.io/cluster": lambda one: one.cluster_id,
    "kubernetes.io/hostname": lambda one: one.node,
}
"""Labels of ``failoverPriority`` that are known of a workload without being among its labels."""
SCOPES: Final = {
    Scope.REGION: lambda one: one.locality.region,
    Scope.ZONE: lambda one: one.locality.zone,
    Scope.SUBZONE: lambda one: one.locality.subzone,
    Scope.NODE: lambda one: one.node,
    Scope.CLUSTER: lambda one: one.cluster_id,
    Scope.NETWORK: lambda one: one.network,
}


class Standing(NamedTuple):
    """Where an endpoint stands: 0 is the first priority; ``weight`` is that of its locality,
    0 where localities have none."""

    priority: int = 0
    weight: int = 0
    locality: Locality = Locality()


def standings(
    workloads: Sequence[Workload],
    own: Workload | None,
    setting: LocalitySetting | None,
    preference: LoadBalancing,
    *,
    outliers: bool,
    mesh: LocalitySetting = MESH_LOCALITY,
) -> tuple[Standing | None, ...]:
    """One for each workload, None where it gets nothing.

    ``own`` is the waypoint's workload. A rule's ``setting`` comes before the service's
    ``preference``, and that before the ``mesh``'s. ``outliers`` says whether outlier detection is
    configured, without which there is no failover.
    """
    flat = tuple(Standing(locality=one.locality) for one in workloads)
    if setting is None and not preference.routing_preference:
        setting = mesh
    if own is None or (setting is not None and not setting.enabled):
        return flat
    if setting is not None and setting.distribute:
        return _distributed(workloads, own, setting)
    if setting is None and preference.routing_preference:
        ranks = [_scope_rank(one, own, preference.routing_preference) for one in workloads]
        if preference.mode is Mode.STRICT:
            return tuple(
                stand if rank == 0 else None for stand, rank in zip(flat, ranks, strict=True)
            )
    elif outliers and setting is not None:
        if setting.failover_priority:
            labels = setting.failover_priority
            ranks = [_label_rank(one, own, labels) for one in workloads]
        else:
            ranks = [_region_rank(one.locality, own.locality, setting) for one in workloads]
    else:
        return flat
    used = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    return tuple(
        Standing(used[rank], 0, one.locality) for rank, one in zip(ranks, workloads, strict=True)
    )


def _region_rank(there: Locality, here: Locality, setting: LocalitySetting) -> int:
    if there.region != here.region:
        wanted = setting.failover.get(here.region)
        return 4 if wanted is not None and there.region != wanted else 3
    if there.zone != here.zone:
        return 2
    return 1 if there.subzone != here.subzone else 0


def _label_rank(there: Workload, here: Workload, labels: tuple[str, ...]) -> int:
    """How many labels follow behind the last one of those in front that are equal."""
    for index, label in enumerate(labels):
        key, equals, value = label.partition("=")
        wanted = value if equals else _label(here, key)
        if _label(there, key) != wanted:
            return len(labels) - index
    return 0


def _label(workload: Workload, key: str) -> str:
    known = TOPOLOGY.get(key)
    return str(known(workload)) if known is not None else workload.labels.get(key, "")


def _scope_rank(there: Workload, here: Workload, scopes: tuple[Scope, ...]) -> int:
    for index, scope in enumerate(scopes):
        read = SCOPES.get(scope)
        if read is not None and read(there) != read(here):
            return len(scopes) - index
    return 0


def _distributed(
    workloads: Sequence[Workload], own: Workload, setting: LocalitySetting
) -> tuple[Standing | None, ...]:
    """The first entry whose origin is here; localities that it does not name get nothing."""
    entry = next((e for e in setting.distribute if matches(e.origin, own.locality)), None)
    if entry is None:
        return tuple(Standing(locality=one.locality) for one in workloads)
    members: dict[Locality, int] = {}
    for one in workloads:
        members[one.locality] = members.get(one.locality, 0) + max(one.capacity, 1)
    weights: dict[Locality, int] = {}
    for pattern, percent in entry.to.items():
        covered = [w for w in members if w not in weights and matches(pattern, w)]
        total = sum(members[where] for where in covered)
        for where in covered:
            weights[where] = math.ceil(percent * members[where] / total)
    return tuple(
        Standing(0, weights[one.locality], one.locality) if weights.get(one.locality) else None
        for one in workloads
    )


def matches(pattern: str, locality: Locality) -> bool:
    """Is a locality named by ``region/zone/subzone``, where ``*`` ends the pattern?"""
    said = pattern.split("/")
    for part, value in zip(said, (locality.region, locality.zone, locality.subzone), strict=False):
        if part == "*":
            return True
        if part != value:
            return False
    return True
