"""Which ztunnel a command means: by its pod, by a workload's pod, by the node, or any."""

from __future__ import annotations

from typing import NamedTuple

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import NODES, PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.cluster import known_namespace
from ambientctl.pod_names import apps_of, near, place, pods_meant
from ambientctl.printing import taken
from ambientctl.reach import TUNNELS, running_pods


class Found(NamedTuple):
    """Tunnels to ask; ``pod`` is the workload whose rows are meant, if one was named."""

    tunnels: list[KubeObject]
    pod: tuple[str, str] | None = None


async def tunnels(kube: KubeClient, *, node: str = "") -> list[KubeObject]:
    """All running ztunnels, of a node or of all. Raises MeshError where there are none."""
    found = await running_pods(kube, None, TUNNELS, node=node)
    if not found:
        if node:
            await _known_node(kube, node)
        where = f" on node {node}" if node else ""
        raise MeshError(
            f"no ztunnel runs{where}",
            hint="kubectl get pods -A -l app=ztunnel -o wide; ambientctl check",
        )
    return found


async def _known_node(kube: KubeClient, name: str) -> None:
    """Raises MeshError where there is no such node."""
    try:
        nodes = [one["metadata"]["name"] for one in await kube.list(NODES)]
    except KubeError:
        return  # who may read pods need not be allowed to read nodes
    if name not in nodes:
        raise MeshError(f"there is no node {name}", hint=near(name, nodes, "there are"))


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
    there: set[str] = set()
    for namespace in namespaces:
        try:
            return await kube.get(PODS, name, namespace)
        except NotFound:
            pods = await kube.list(PODS, namespace)
        meant = pods_meant(pods, name)
        if meant:
            taken([one["metadata"]["name"] for one in meant])
            return meant[0]
        there |= apps_of(pods)
    await known_namespace(kube, namespaces[0])
    places = " and ".join(namespaces)
    hint = near(name, there, "pods there") or "write NAME.NAMESPACE, or use -n"
    raise MeshError(f"there is no pod {name} in {places}", hint=hint)
