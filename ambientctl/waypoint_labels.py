"""Labels that send traffic to a waypoint: who has them, and taking them off again."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from typing import NamedTuple

from ambient.kube.core.errors import NotFound
from ambient.kube.core.objects import USE_WAYPOINT_LABEL, USE_WAYPOINT_NAMESPACE_LABEL
from ambient.kube.core.resources import NAMESPACES, PODS, SERVICE_ENTRIES, SERVICES, Resource
from ambient.kube.io.client import KubeClient

NONE = "none"
"""The value that opts out; it refers to nobody."""
CANARY = ("istio.io/use-waypoint-canary", "istio.io/use-waypoint-canary-namespace")


class Holder(NamedTuple):
    """An object with the label, and the waypoint (namespace, name) that it means."""

    resource: Resource
    namespace: str | None
    name: str
    waypoint: tuple[str, str]

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.resource.kind.lower()} {where}{self.name}"

    @property
    def command(self) -> str:
        """What kubectl would do."""
        where = f" -n {self.namespace}" if self.namespace else ""
        kind = self.resource.kind.lower()
        return f"kubectl label {kind} {self.name}{where} {USE_WAYPOINT_LABEL}-"


async def holders(
    kube: KubeClient, waypoints: Container[tuple[str, str]] | None = None
) -> list[Holder]:
    """Those who refer to these waypoints, or to any. Raises KubeError."""
    found: list[Holder] = []
    for resource in (NAMESPACES, SERVICES, SERVICE_ENTRIES, PODS):
        with suppress(NotFound):  # without its definition there are none
            for obj in await kube.list(resource, None, USE_WAYPOINT_LABEL):
                metadata = obj["metadata"]
                labels = metadata["labels"]
                name, own = labels[USE_WAYPOINT_LABEL], metadata.get("namespace")
                where = labels.get(USE_WAYPOINT_NAMESPACE_LABEL) or own or metadata["name"]
                if name != NONE and (waypoints is None or (where, name) in waypoints):
                    found.append(Holder(resource, own, metadata["name"], (where, name)))
    return found


async def unlabel(kube: KubeClient, found: Iterable[Holder]) -> list[Holder]:
    """Take the labels off; those that are left are pods, whose labels come from a template."""
    labels = dict.fromkeys((USE_WAYPOINT_LABEL, USE_WAYPOINT_NAMESPACE_LABEL, *CANARY))
    left: list[Holder] = []
    for one in found:
        if one.resource is PODS:
            left.append(one)
            continue
        body = {"metadata": {"labels": labels}}
        with suppress(NotFound):
            await kube.patch(one.resource, one.name, body, namespace=one.namespace)
        print(f"{one}: label {USE_WAYPOINT_LABEL} removed")
    return left
