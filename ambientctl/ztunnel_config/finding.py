"""Which ztunnel a command means: by its pod, by a workload's pod, by the node, or any."""

from __future__ import annotations

from typing import NamedTuple

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.pod_names import place, pods_meant
from ambientctl.reach import TUNNELS, running_pods


class Found(NamedTuple):
    """Tunnels to ask; ``pod`` is the workload whose rows are meant, if one was named."""

    tunnels: list[KubeObject]
    pod: tuple[str, str] | None = None


async def tunnels(kube: KubeClient, *, node: str = "") -> list[KubeObject]:
    """All running ztunnels, of a node or of all. Raises MeshError where there are none."""
    found = await running_pods(kube, None, TUNNELS, node=node)
    if not found:
        where = f" on node {node}" if node else ""
        raise MeshError(
            f"no ztunnel runs{where}",
            hint="kubectl get pods -A -l app=ztunnel -o wide; ambientctl check",
        )
    return found


async def find_tunnels(
    kube: KubeClient, name: str, node: str, namespace: str, system: str
) -> Found:
    """The ztunnels that a command's argument and ``--node`` mean. Raises MeshError."""
    if name and node:
        raise UsageError("give a pod or --node, not both")
    if not name:
        return Found(await tunnels(kube, node=node))
    where, short = place(name, namespace)
    pod = await _pod(kube, short, list(dict.fromkeys((where, system))))
    metadata = pod["metadata"]
    short = metadata["name"]
    if (metadata.get("labels") or {}).get("app") == "ztunnel":
        return Found([pod])
    on = pod["spec"].get("nodeName") or ""
    if not on:
        raise MeshError(f"pod {metadata['namespace']}/{short} is on no node yet")
    return Found(await tunnels(kube, node=on), (metadata["namespace"], short))


async def _pod(kube: KubeClient, name: str, namespaces: list[str]) -> KubeObject:
    """By its name, or that of its Deployment or app."""
    for namespace in namespaces:
        try:
            return await kube.get(PODS, name, namespace)
        except NotFound:
            meant = pods_meant(await kube.list(PODS, namespace), name)
            if meant:
                return meant[0]
    places = " and ".join(namespaces)
    raise MeshError(f"there is no pod {name} in {places}", hint="write NAME.NAMESPACE, or use -n")
