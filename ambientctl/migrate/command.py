"""``ambientctl migrate plan|namespace|rollback``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import click

from ambient.api.errors import MeshError
from ambient.kube.core.objects import AMBIENT_MODE_LABEL, USE_WAYPOINT_LABEL
from ambient.kube.core.resources import DAEMON_SETS, DEPLOYMENTS, NAMESPACES, Resource
from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.describe.view import View
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.install.command import How, confirm
from ambientctl.migrate.plan import Plan, candidates, plan

BEFORE: Final = "ambient-mesh.io/before-migration"
"""Annotation of a namespace: the labels that it had, as JSON."""
LABELS: Final = ("istio-injection", "istio.io/rev", AMBIENT_MODE_LABEL, USE_WAYPOINT_LABEL)
STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
RESTARTED: Final = "kubectl.kubernetes.io/restartedAt"
yes_option = click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask.")


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
    if one.open:
        print(f"  ✔ may be moved: ambientctl migrate namespace {one.namespace}")


@command.command("namespace")
@click.argument("name")
@yes_option
@system_option
@cluster_options
def namespace_command(cluster: Cluster, name: str, yes: bool, system: str) -> None:
    """Move a namespace, if nothing of the plan is left to do.

    In the order that leaves no pod without a proxy: the waypoint's label, then ambient mode, then
    the injection label, then the workloads are restarted. What was there is kept for `rollback`.
    """

    async def task() -> None:
        async with cluster.connect() as kube:
            found = plan((await View.read(kube, system)).corpus, name)
            if not found.open:
                show(found)
                raise MeshError(
                    f"namespace {name} is not ready to be moved; nothing was changed",
                    hint=f"do what is named above; ambientctl migrate plan -n {name}",
                )
            confirm(f"Move namespace {name} to ambient mode and restart its workloads", _how(yes))
            await _move(kube, found)

    run(task)


def _how(yes: bool) -> How:
    return How(dry_run=False, yes=yes, wait=False, limit_s=0, force=False)


async def _move(kube: KubeClient, found: Plan) -> None:
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
    await _patch(kube, name, {"labels": {AMBIENT_MODE_LABEL: "ambient"}})
    print("✔ in ambient mode; pods keep their sidecars until they are restarted")
    if found.labels:
        await _patch(kube, name, {"labels": dict.fromkeys(found.labels)})
        print(f"✔ labels removed: {', '.join(found.labels)}")
    print(f"✔ {await _restart(kube, name)} workloads restart")
    print(f"look: ambientctl check; back: ambientctl migrate rollback {name}")


async def _patch(kube: KubeClient, name: str, metadata: dict[str, Any]) -> None:
    await kube.patch(NAMESPACES, name, {"metadata": metadata})


async def _restart(kube: KubeClient, namespace: str) -> int:
    """As ``kubectl rollout restart`` does it."""
    number = 0
    stamp = {RESTARTED: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    for resource in (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS):
        try:
            found = await kube.list(resource, namespace)
        except MeshError:
            continue  # a cluster without that kind has none
        for one in found:
            labels = one["metadata"].get("labels") or {}
            if "gateway.istio.io/managed" in labels:
                continue
            body = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
            await kube.patch(resource, one["metadata"]["name"], body, namespace=namespace)
            number += 1
    return number


@command.command("rollback")
@click.argument("name")
@yes_option
@cluster_options
def rollback(cluster: Cluster, name: str, yes: bool) -> None:
    """Give a namespace the labels back that it had before `migrate namespace`, and restart."""

    async def task() -> None:
        async with cluster.connect() as kube:
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
            confirm(f"Move namespace {name} back and restart its workloads", _how(yes))
            await _patch(kube, name, {"labels": before, "annotations": {BEFORE: None}})
            print("✔ labels are as they were")
            print(f"✔ {await _restart(kube, name)} workloads restart")

    run(task)
