"""``ambientctl install``, ``upgrade`` and ``uninstall``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click
import trio
import yaml

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.objects import AMBIENT_MODE_LABEL, REDIRECTION_ANNOTATION
from ambient.kube.core.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    GATEWAYS,
    NAMESPACES,
    PODS,
    KubeObject,
)
from ambient.kube.io.client import KubeClient
from ambientctl.check.command import results_of
from ambientctl.check.facts import gather
from ambientctl.check.result import State
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import INTERRUPTED, run
from ambientctl.global_options import system_option
from ambientctl.install.applying import (
    LOOK_S,
    Kinds,
    apply_all,
    delete_all,
    present,
    until_established,
    until_ready,
)
from ambientctl.install.leavings import leavings, sweep
from ambientctl.install.plan import (
    REVISION_LABEL,
    WORKLOADS,
    Plan,
    Wish,
    identity,
    named,
    planned,
    superfluous,
    version_of,
)
from ambientctl.manifests import bundle
from ambientctl.options import grouped
from ambientctl.printing import warn

ORDER: Final = (
    "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "PodDisruptionBudget",
    "Deployment", "DaemonSet", "ServiceMonitor", "PodMonitor", "NetworkPolicy", "Service",
    "GatewayClass", "ConfigMap", "RoleBinding", "Role", "ClusterRoleBinding", "ClusterRole",
    "ServiceAccount",
)  # fmt: skip
"""Of removal: first what would refuse writes, at last the accounts, with which agents clean up."""


class How(NamedTuple):
    """The manner of it."""

    dry_run: bool
    yes: bool
    wait: bool
    limit_s: float
    force: bool


wish_options = grouped(
    "wish",
    lambda profiles, sets, files, revision, system: Wish(profiles, sets, files, revision, system),
    click.option("--profile", "profiles", multiple=True,
                 help=f"One or more of {', '.join(bundle.profiles())}."),
    click.option("-s", "--set", "sets", multiple=True, metavar="NAME=VALUE", help="A value."),
    click.option("-f", "--values", "files", multiple=True, help="A YAML file with values."),
    click.option("-r", "--revision", default="", help="A second control plane of this name."),
    system_option,
)  # fmt: skip
how_options = grouped(
    "how",
    How,
    click.option("--dry-run", is_flag=True, help="Print the objects; change nothing."),
    click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask."),
    click.option("--wait/--no-wait", default=True, help="Wait until everything is ready."),
    click.option("--readiness-timeout", "limit_s", default=300.0, show_default=True,
                 help="Seconds to wait."),
    click.option("--force", is_flag=True, help="Although check --pre finds errors."),
)  # fmt: skip


@click.command("install")
@wish_options
@how_options
@cluster_options
def install(cluster: Cluster, wish: Wish, how: How) -> None:
    """Install the mesh, or change an installation; what is there already stays as it is.

    An interrupted installation goes on where it ended: run the same command again.
    """
    _go(cluster, planned(wish), wish, how, upgrade=False)


@click.command("upgrade")
@wish_options
@how_options
@cluster_options
def upgrade(cluster: Cluster, wish: Wish, how: How) -> None:
    """Bring an installation to this version: control plane first, then agents and tunnels.

    Tunnels are replaced beside their predecessors, which keep the connections that they have.
    """
    _go(cluster, planned(wish), wish, how, upgrade=True)


def _go(cluster: Cluster, plan: Plan, wish: Wish, how: How, *, upgrade: bool) -> None:
    if how.dry_run:
        print(yaml.safe_dump_all(plan.all, sort_keys=False), end="")
        return
    verb = "Upgrade" if upgrade else "Install"
    profile = "+".join(wish.profiles) or bundle.DEFAULT_PROFILE

    async def task() -> None:
        async with cluster.connect() as kube:
            kinds = Kinds(kube)
            before = await present(kube, kinds)
            mine = [one for one in before if _revision(one) == plan.revision]
            if upgrade and not mine:
                raise MeshError(
                    f"there is no installation of revision {plan.revision} to upgrade",
                    hint="ambientctl install",
                )
            _tell(plan, mine)
            await _preflight(kube, wish.namespace, how, fresh=not before)
            confirm(f"{verb} profile {profile!r} into {kube.server}", how)
            await _apply(kube, kinds, plan, mine, how)

    try:
        run(task)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            warn("what was applied stays", "the same command goes on from here")
        raise


def _revision(obj: KubeObject) -> str:
    return str((obj["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def _tell(plan: Plan, before: Sequence[KubeObject]) -> None:
    """Versions, where they differ (Istio: at most one minor version at a time)."""
    old, new = version_of(before), plan.version
    if not old or old == new:
        return
    print(f"version {old} becomes {new}")
    minors = [text.split(".")[:2] for text in (old, new)]
    if all(len(one) == 2 and all(part.isdecimal() for part in one) for one in minors):
        (major, minor), (new_major, new_minor) = ([int(p) for p in one] for one in minors)
        if major != new_major or abs(new_minor - minor) > 1:
            warn("more than one minor version at a time is not tested", "upgrade step by step")


async def _preflight(kube: KubeClient, system: str, how: How, *, fresh: bool) -> None:
    if not fresh:
        return
    facts = await gather(kube, system, before=True)
    failed = [one for one in results_of(facts, before=True) if one.state is State.ERROR]
    for one in failed:
        warn(f"{one.name}: {one.text}", one.remedy)
    if failed and not how.force:
        raise MeshError(
            f"{len(failed)} checks failed; nothing was changed",
            hint="mend them (ambientctl check --pre), or --force",
        )


def confirm(question: str, how: How) -> None:
    """Ask, unless told not to. Raises UsageError where nobody can answer."""
    if how.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question}? Nobody is there to answer", hint="repeat with -y")
    if not click.confirm(f"{question}?", default=False):
        raise click.Abort


async def _apply(
    kube: KubeClient, kinds: Kinds, plan: Plan, before: Sequence[KubeObject], how: How
) -> None:
    deadline = trio.current_time() + how.limit_s
    missing = await _missing_definitions(kube, plan)
    await apply_all(kube, kinds, missing)
    await until_established(kube, [one["metadata"]["name"] for one in plan.definitions], deadline)
    kinds.forget()
    print(f"✔ definitions ({len(missing)} new)")
    await apply_all(kube, kinds, plan.objects)
    print(f"✔ {len(plan.objects)} objects applied")
    gone = await delete_all(kube, kinds, superfluous(list(before), plan))
    if gone:
        print(f"✔ {gone} objects of the earlier version removed")
    if how.wait:
        await until_ready(kube, kinds, plan.workloads, how.limit_s, print)
        print("✔ the mesh is installed; ambientctl check looks at it")


async def _missing_definitions(kube: KubeClient, plan: Plan) -> list[dict[str, Any]]:
    """Definitions of others stay as they are: ours hold only what the mesh reads."""
    found = {one["metadata"]["name"]: one for one in await kube.list(CUSTOM_RESOURCE_DEFINITIONS)}
    return [
        one
        for one in plan.definitions
        if one["metadata"]["name"] not in found or _ours(found[one["metadata"]["name"]])
    ]


def _ours(obj: Mapping[str, Any]) -> bool:
    return REVISION_LABEL in (obj["metadata"].get("labels") or {})


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
                one for one in await present(kube, kinds) if revision in ("", _revision(one))
            ]
            enrolled = [] if revision else await _enrolled(kube)
            if not objects and not enrolled:
                raise MeshError(
                    f"there is no installation{f' of revision {revision}' if revision else ''}",
                    hint="was it made by Helm or kubectl? Remove it with the same tool",
                )
            ordered = sorted(objects, key=_place)
            if how.dry_run:
                for name in enrolled:
                    print(f"namespace {name} leaves the mesh")
                print("\n".join(f"{named(one)} is deleted" for one in ordered))
                return []
            confirm(f"Remove {len(objects)} objects from {kube.server}", how)
            for name in enrolled:
                labels = {"metadata": {"labels": {AMBIENT_MODE_LABEL: None}}}
                await kube.patch(NAMESPACES, name, labels)
                print(f"✔ namespace {name} has left the mesh")
            if enrolled:
                await _until_released(kube, how.limit_s)
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
    ours = [
        one for one in definitions if _ours(found.get(one["metadata"]["name"], {"metadata": {}}))
    ]
    number = await delete_all(kube, kinds, ours)
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
