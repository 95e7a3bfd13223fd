"""``ambientctl migrate plan|namespace|rollback``."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import click

from ambient.api.errors import MeshError
from ambient.kube.core.objects import AMBIENT_MODE_LABEL, USE_WAYPOINT_LABEL
from ambient.kube.core.resources import NAMESPACES
from ambient.kube.io.client import KubeClient
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options, known_namespace
from ambientctl.console import run
from ambientctl.describe.view import View
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.install.command import confirm
from ambientctl.migrate.handover import hand_over, restart, until_restarted, widen, with_sidecars
from ambientctl.migrate.plan import Plan, candidates, plan
from ambientctl.options import grouped
from ambientctl.printing import warn

BEFORE: Final = "ambient-mesh.io/before-migration"
"""Annotation of a namespace: the labels that it had, as JSON."""
LABELS: Final = ("istio-injection", "istio.io/rev", AMBIENT_MODE_LABEL, USE_WAYPOINT_LABEL)


class How(NamedTuple):
    """The manner of it."""

    yes: bool
    wait: bool
    limit_s: float


how_options = grouped(
    "how",
    How,
    click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask."),
    click.option("--wait/--no-wait", default=True, help="Wait until the workloads are restarted."),
    click.option("--timeout", "limit_s", default=300.0, show_default=True,
                 help="Seconds, for the waypoint's policies and for the restart."),
)  # fmt: skip


@click.group("migrate", cls=AliasedGroup)
def command() -> None:
    """Move namespaces from sidecars to ambient mode, one by one, and back."""


@command.command("plan")
@system_option
@cluster_options
def plan_command(cluster: Cluster, system: str) -> None:
    """Say what each namespace with sidecars needs, in which order; change nothing.

    Exit status 1 where something has to be done before a namespace can be moved.
    """

    async def task() -> list[Plan]:
        async with cluster.connect() as kube:
            view = await View.read(kube, system)
            for needed in ("Namespace", "Pod"):
                view.reading.require(needed)
            names = [cluster.namespace] if cluster.namespace else candidates(view.corpus)
            return [plan(view.corpus, name) for name in names]

    plans = run(task)
    if not plans:
        print("No namespace has sidecars.")
    for one in plans:
        show(one)
    if any(not one.open for one in plans):
        raise SystemExit(1)


def show(one: Plan) -> None:
    """The steps of a namespace."""
    print(f"namespace {one.namespace}: {one.sidecars} pods with sidecars")
    for obstacle in one.obstacles:
        print(f"  ✘ {obstacle.item}: {obstacle.text}\n    remedy: {obstacle.remedy}")
    if one.waypoint and not one.waypoint_ready:
        print(f"  ✘ needs a waypoint, since objects here look into HTTP\n    remedy: ambientctl "
              f"waypoint apply -n {one.namespace} --name {one.waypoint} --wait")  # fmt: skip
    for translation in one.translations:
        print(f"  ✔ {translation.policy.ref}: the waypoint gets a copy for Service "
              f"{', '.join(translation.services)}")  # fmt: skip
    if one.waypoint and one.neighbours:
        print(f"  ‼ {', '.join(one.neighbours)} still with sidecars: what they call goes past the "
              "waypoint, and past its policies\n    remedy: move callers first, or let only the "
              "waypoint in (an L4 policy)")  # fmt: skip
    if one.open:
        print(f"  ✔ may be moved: ambientctl migrate namespace {one.namespace}")


@command.command("namespace")
@click.argument("name", shell_complete=completing.namespaces)
@how_options
@system_option
@cluster_options
def namespace_command(cluster: Cluster, name: str, how: How, system: str) -> None:
    """Move a namespace, if nothing of the plan is left to do.

    In the order that leaves no pod without a proxy and no call without its policy: the waypoint's
    label; copies of policies, until the waypoint enforces them; the old ones are narrowed to pods
    with a sidecar; then ambient mode, the injection label, and the workloads are restarted. What
    was there is kept for `rollback`.
    """

    async def task() -> None:
        async with cluster.connect() as kube:
            await known_namespace(kube, name)
            found = plan((await View.read(kube, system)).corpus, name)
            if not found.open:
                show(found)
                raise MeshError(
                    f"namespace {name} is not ready to be moved; nothing was changed",
                    hint=f"do what is named above; ambientctl migrate plan -n {name}",
                )
            question = f"Move namespace {name} to ambient mode and restart its workloads"
            confirm(question, yes=how.yes)
            await _move(kube, found, how)

    run(task)


async def _move(kube: KubeClient, found: Plan, how: How) -> None:
    name = found.namespace
    live = await kube.get(NAMESPACES, name)
    labels = live["metadata"].get("labels") or {}
    annotations = live["metadata"].get("annotations") or {}
    if BEFORE not in annotations:  # an interrupted move must not forget what was there at first
        before = {key: labels.get(key) for key in LABELS}
        await _patch(kube, name, {"annotations": {BEFORE: json.dumps(before)}})
    if found.waypoint:
        await _patch(kube, name, {"labels": {USE_WAYPOINT_LABEL: found.waypoint}})
        print(f"✔ calls to its services go through waypoint {found.waypoint}")
    await hand_over(kube, found, how.limit_s)
    await _patch(kube, name, {"labels": {AMBIENT_MODE_LABEL: "ambient"}})
    print("✔ in ambient mode; pods keep their sidecars until they are restarted")
    if found.labels:
        await _patch(kube, name, {"labels": dict.fromkeys(found.labels)})
        print(f"✔ labels removed: {', '.join(found.labels)}")
    await _restart(kube, name, how)
    left = await with_sidecars(kube, name) if how.wait else []
    if left:
        warn(f"still with a sidecar: {', '.join(left)}", "delete these pods; nobody restarts them")
    print(f"look: ambientctl check; back: ambientctl migrate rollback {name}")


async def _restart(kube: KubeClient, name: str, how: How) -> None:
    started = await restart(kube, name)
    print(f"✔ {len(started)} workloads restart")
    if how.wait:
        await until_restarted(kube, name, started, how.limit_s)
        print("✔ they are restarted")


async def _patch(kube: KubeClient, name: str, metadata: dict[str, Any]) -> None:
    await kube.patch(NAMESPACES, name, {"metadata": metadata})


@command.command("rollback")
@click.argument("name", shell_complete=completing.namespaces)
@how_options
@cluster_options
def rollback(cluster: Cluster, name: str, how: How) -> None:
    """Give a namespace the labels back that it had before `migrate namespace`, and restart.

    Policies that were narrowed to pods with a sidecar get their selectors back when all pods are
    restarted; the waypoint's copies stay and do nothing.
    """

    async def task() -> None:
        async with cluster.connect() as kube:
            await known_namespace(kube, name)
            live = await kube.get(NAMESPACES, name)
            text = (live["metadata"].get("annotations") or {}).get(BEFORE)
            if text is None:
                raise MeshError(
                    f"namespace {name} was not moved by ambientctl migrate",
                    hint="set its labels by hand: kubectl label namespace",
                )
            try:
                before = {key: json.loads(text).get(key) for key in LABELS}
            except (ValueError, AttributeError) as error:
                raise MeshError(f"annotation {BEFORE} cannot be read: {error}") from error
            confirm(f"Move namespace {name} back and restart its workloads", yes=how.yes)
            await _patch(kube, name, {"labels": before})
            print("✔ labels are as they were")
            await _restart(kube, name, how)
            if how.wait:
                for policy in await widen(kube, name):
                    print(f"✔ {policy} selects what it selected")
            else:
                print("  policies that were narrowed still select only pods with a sidecar")
            # At last: an interrupted way back goes on from where it was.
            await _patch(kube, name, {"annotations": {BEFORE: None}})

    run(task)
