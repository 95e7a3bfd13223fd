"""``ambientctl uninstall``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.objects import AMBIENT_MODE_LABEL, REDIRECTION_ANNOTATION
from ambient.kube.core.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    GATEWAYS,
    NAMESPACES,
    PODS,
    KubeObject,
)
from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.install.applying import LOOK_S, Kinds, delete_all, present
from ambientctl.install.command import How, confirm, how_options, ours, revision_of
from ambientctl.install.leavings import leavings, sweep
from ambientctl.install.plan import WORKLOADS, identity, named
from ambientctl.manifests import bundle
from ambientctl.printing import warn
from ambientctl.waypoint_labels import Holder, holders, unlabel

ORDER: Final = (
    "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "PodDisruptionBudget",
    "Deployment", "DaemonSet", "ServiceMonitor", "PodMonitor", "NetworkPolicy", "Service",
    "ResourceQuota",
    "GatewayClass", "ConfigMap", "RoleBinding", "Role", "ClusterRoleBinding", "ClusterRole",
    "ServiceAccount",
)  # fmt: skip
"""Of removal: first what would refuse writes, at last the accounts, with which agents clean up."""


@click.command("uninstall")
@click.option("-r", "--revision", default="", help="Only the control plane of this name.")
@click.option(
    "--purge",
    is_flag=True,
    help="Definitions, too, and with them all policies; and the authority's key.",
)
@system_option
@how_options
@cluster_options
def uninstall(cluster: Cluster, revision: str, purge: bool, system: str, how: How) -> None:
    """Take namespaces out of the mesh, remove it, and look whether anything is left.

    With --dry-run: say what would be removed. Exit status 1 where something is left.
    """

    async def task() -> list[str]:
        async with cluster.connect() as kube:
            kinds = Kinds(kube)
            objects = [
                one for one in await present(kube, kinds) if revision in ("", revision_of(one))
            ]
            enrolled = [] if revision else await _enrolled(kube)
            labelled = [] if revision else await holders(kube)
            if not objects and not enrolled:
                raise MeshError(
                    f"there is no installation{f' of revision {revision}' if revision else ''}",
                    hint="was it made by Helm or kubectl? Remove it with the same tool",
                )
            ordered = sorted(objects, key=_place)
            if how.dry_run:
                _tell(enrolled, labelled, ordered)
                return []
            confirm(f"Remove {len(objects)} objects from {kube.server}", yes=how.yes)
            await _leave(kube, enrolled, labelled, how)
            await delete_all(kube, kinds, ordered)
            print(f"✔ {len(ordered)} objects deleted")
            if purge:
                await _purge(kube, kinds)
            left = await _left(kube, kinds, ordered, how) if how.wait else []
            if not revision:
                number = await sweep(kube, await leavings(kube, system, purge=purge))
                print(f"✔ {number} objects deleted that the control plane had made")
            return left

    left = run(task)
    for line in left:
        warn(f"left: {line}")
    if left:
        raise SystemExit(1)
    if not how.dry_run:
        print("✔ nothing is left")


def _tell(enrolled: list[str], labelled: list[Holder], objects: list[KubeObject]) -> None:
    """What would happen."""
    for name in enrolled:
        print(f"namespace {name} leaves the mesh")
    for one in labelled:
        print(f"{one} no longer uses waypoint {'/'.join(one.waypoint)}")
    for obj in objects:
        print(f"{named(obj)} is deleted")


async def _leave(kube: KubeClient, enrolled: list[str], labelled: list[Holder], how: How) -> None:
    """Nobody is captured any more, or refers to a waypoint: such a label without a mesh would come
    into force with the next one.
    """
    for name in enrolled:
        await kube.patch(NAMESPACES, name, {"metadata": {"labels": {AMBIENT_MODE_LABEL: None}}})
        print(f"✔ namespace {name} has left the mesh")
    if enrolled:
        await _until_released(kube, how.limit_s)
    for one in await unlabel(kube, labelled):
        warn(f"{one} has the label of a waypoint from its template")


def _place(obj: KubeObject) -> int:
    return ORDER.index(obj["kind"]) if obj["kind"] in ORDER else len(ORDER)


async def _enrolled(kube: KubeClient) -> list[str]:
    found = await kube.list(NAMESPACES, None, f"{AMBIENT_MODE_LABEL}=ambient")
    return sorted(one["metadata"]["name"] for one in found)


async def _captured(kube: KubeClient) -> list[str]:
    return [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in await kube.list(PODS)
        if (pod["metadata"].get("annotations") or {}).get(REDIRECTION_ANNOTATION) == "enabled"
    ]


async def _until_released(kube: KubeClient, limit_s: float) -> None:
    """No pod is redirected any more: removing the tunnel now cuts nobody off."""
    deadline = trio.current_time() + limit_s
    while captured := await _captured(kube):
        if trio.current_time() >= deadline:
            raise MeshError(
                f"still in the mesh: {', '.join(captured[:5])}",
                hint="do they have the label themselves, or is their node's agent away? "
                "ambientctl check names it; nothing else was removed",
            )
        await trio.sleep(LOOK_S)
    print("✔ no pod is redirected any more")


async def _purge(kube: KubeClient, kinds: Kinds) -> None:
    definitions = bundle.definitions()
    found = {one["metadata"]["name"]: one for one in await kube.list(CUSTOM_RESOURCE_DEFINITIONS)}
    made = [
        one for one in definitions if ours(found.get(one["metadata"]["name"], {"metadata": {}}))
    ]
    number = await delete_all(kube, kinds, made)
    kinds.forget()
    print(f"✔ {number} definitions deleted, with all objects of theirs")


async def _left(
    kube: KubeClient, kinds: Kinds, deleted: Sequence[KubeObject], how: How
) -> list[str]:
    """What is still there when the pods have had time to end."""
    deadline = trio.current_time() + how.limit_s
    gone = [one for one in deleted if one["kind"] in WORKLOADS]
    while True:
        known = {identity(one) for one in deleted}
        left = [named(one) for one in await present(kube, kinds) if identity(one) in known]
        labels = [
            ",".join(f"{k}={v}" for k, v in one["spec"]["selector"]["matchLabels"].items())
            for one in gone
        ]
        spaces = [one["metadata"]["namespace"] for one in gone]
        for label, space in zip(labels, spaces, strict=True):
            left += [
                f"Pod {space}/{p['metadata']['name']}" for p in await kube.list(PODS, space, label)
            ]
        if not left or trio.current_time() >= deadline:
            return left + [f"waypoint {name}" for name in await _waypoints(kube)]
        await trio.sleep(LOOK_S)


async def _waypoints(kube: KubeClient) -> list[str]:
    try:
        found = await kube.list(GATEWAYS)
    except MeshError:
        return []
    return [
        f"{one['metadata']['namespace']}/{one['metadata']['name']} (ambientctl waypoint delete)"
        for one in found
        if (one.get("spec") or {}).get("gatewayClassName") == "istio-waypoint"
    ]
