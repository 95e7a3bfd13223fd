"""``ambientctl uninstall``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import click
import trio

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.objects import AMBIENT_MODE_LABEL, REDIRECTION_ANNOTATION
from ambient.kube.core.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    GATEWAYS,
    NAMESPACES,
    PODS,
    KubeObject,
)
from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.control_plane import SELECTOR as ISTIOD
from ambientctl.global_options import system_option
from ambientctl.install.applying import LOOK_S, Kinds, delete_all, present
from ambientctl.install.command import How, confirm, how_options, ours, revision_of
from ambientctl.install.leavings import Left, leavings, sweep
from ambientctl.install.plan import WORKLOADS, Manifest, identity, named
from ambientctl.manifests import bundle
from ambientctl.manifests.template import DEFAULT_REVISION
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

    whole = revision in ("", DEFAULT_REVISION)
    if purge and not whole:
        raise UsageError(
            "--purge takes the definitions of all revisions", hint="leave out --purge or --revision"
        )

    async def task() -> list[str]:
        async with cluster.connect() as kube:
            kinds = Kinds(kube)
            every = await present(kube, kinds)
            found = await _found(kube, every, revision, system, purge=purge)
            if how.dry_run:
                _tell(found)
                return []
            confirm(f"Remove {len(found.objects)} objects from {kube.server}", yes=how.yes)
            if whole:
                await _leave(kube, found.enrolled, found.labelled, how)
            await delete_all(kube, kinds, found.objects)
            print(f"✔ {len(found.objects)} objects deleted")
            if purge:
                number = await delete_all(kube, kinds, found.definitions)
                kinds.forget()
                print(f"✔ {number} definitions deleted, with all objects of theirs")
            left = await _left(kube, kinds, found.objects, how) if how.wait else []
            if whole:
                # Once more: while its pods ended, a control plane may have written again.
                rest = await leavings(kube, found.system, purge=purge)
                print(
                    f"✔ {await sweep(kube, rest)} objects deleted that the control plane had made"
                )
            return left

    left = run(task)
    for line in left:
        warn(f"left: {line}")
    if left:
        raise SystemExit(1)
    if not how.dry_run:
        print("✔ nothing is left")


class Found(NamedTuple):
    """What there is to remove."""

    objects: list[KubeObject]
    """Of the installation, in the order of removal."""
    enrolled: list[str]
    labelled: list[Holder]
    definitions: list[Manifest]
    rest: list[Left]
    """What a control plane has left behind."""
    system: str
    """The namespace that it is in."""


async def _found(
    kube: KubeClient, every: list[KubeObject], revision: str, system: str, *, purge: bool
) -> Found:
    """Also what an interrupted removal has left. Raises MeshError where there is nothing."""
    whole = revision in ("", DEFAULT_REVISION)
    others = sorted({revision_of(one) for one in every} - {"", DEFAULT_REVISION})
    if revision == DEFAULT_REVISION and others:
        raise MeshError(
            f"what would be removed are accounts, agents and tunnels of revision {others[0]}, too",
            hint=f"ambientctl upgrade, then ambientctl uninstall --revision {others[0]}; without "
            "--revision all of the mesh is removed",
        )
    objects = [one for one in every if revision in ("", revision_of(one))]
    if not objects and (other := await _made_by_others(kube, system)):
        raise MeshError(
            f"{other} was not installed by ambientctl",
            hint="remove it with the tool that installed it (helm, kubectl, istioctl)",
        )
    spaces = [one["metadata"].get("namespace") for one in objects]
    system = next(filter(None, spaces), system)
    found = Found(
        sorted(objects, key=_place),
        await _enrolled(kube) if whole else [],
        await holders(kube) if whole else [],
        await _definitions(kube) if purge else [],
        await leavings(kube, system, purge=purge) if whole else [],
        system,
    )
    if not any(found[:-1]):
        raise MeshError(
            f"there is no installation{f' of revision {revision}' if revision else ''}",
            hint="" if purge else "--purge removes definitions and the authority's key, too",
        )
    return found


async def _made_by_others(kube: KubeClient, system: str) -> str:
    """A control plane that runs; its namespaces and certificates are not ours to take."""
    for one in await kube.list(DEPLOYMENTS, system, ISTIOD):
        if not ours(one):
            return f"Deployment {system}/{one['metadata']['name']}"
    return ""


def _tell(found: Found) -> None:
    """What would happen."""
    for name in found.enrolled:
        print(f"namespace {name} leaves the mesh")
    for one in found.labelled:
        print(f"{one} no longer uses waypoint {'/'.join(one.waypoint)}")
    for obj in (*found.objects, *found.definitions):
        print(f"{named(obj)} is deleted")
    for resource, namespace, name in found.rest:
        print(f"{resource.kind} {namespace}/{name} is deleted")


async def _leave(kube: KubeClient, enrolled: list[str], labelled: list[Holder], how: How) -> None:
    """Nobody is captured any more, or refers to a waypoint: such a label without a mesh would come
    into force with the next one.
    """
    for name in enrolled:
        await kube.patch(NAMESPACES, name, {"metadata": {"labels": {AMBIENT_MODE_LABEL: None}}})
        print(f"✔ namespace {name} has left the mesh")
    await _until_released(kube, how)
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


async def _until_released(kube: KubeClient, how: How) -> None:
    """No pod is redirected any more: removing the tunnel now cuts nobody off."""
    deadline = trio.current_time() + how.limit_s
    while captured := await _captured(kube):
        if trio.current_time() >= deadline:
            several = f"still in the mesh: {', '.join(captured[:5])}"
            if how.force:
                warn(several, "delete them: as they are they have no network without the tunnel")
                return
            raise MeshError(
                several,
                hint="do they have the label themselves, or is their node's agent away? "
                "ambientctl check names it; nothing else was removed; --force goes on",
            )
        await trio.sleep(LOOK_S)
    print("✔ no pod is redirected")


async def _definitions(kube: KubeClient) -> list[Manifest]:
    """Those that an installation brought, and nobody else's."""
    found = {one["metadata"]["name"]: one for one in await kube.list(CUSTOM_RESOURCE_DEFINITIONS)}
    names = [one["metadata"]["name"] for one in bundle.definitions()]
    return [found[name] for name in names if name in found and ours(found[name])]


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
