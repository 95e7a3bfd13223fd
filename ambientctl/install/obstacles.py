"""What forbids an installation, found before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError
from ambient.kube.core.resources import NAMESPACES, KubeObject, Resource
from ambient.kube.io.client import KubeClient
from ambientctl.install.applying import Kinds, apply_all
from ambientctl.install.plan import (
    MANAGED_BY,
    MANAGER,
    REVISION_LABEL,
    WORKLOADS,
    Manifest,
    Plan,
    named,
)
from ambientctl.manifests.template import DEFAULT_REVISION

NAMED: Final = 3
"""Objects that a message names."""
FORBIDDEN: Final = 403


Objects = Sequence[KubeObject]


async def look(kube: KubeClient, plan: Plan, system: str, before: Objects) -> None:
    """``before``: the objects of every installation. Raises MeshError."""
    _elsewhere(system, before)
    _alone(plan, before)
    await _being_deleted(kube, system)


def _elsewhere(system: str, before: Objects) -> None:
    """Roles and webhooks have no namespace: a second mesh would take those of the first."""
    for obj in before:
        where = obj["metadata"].get("namespace", system)
        if where != system and REVISION_LABEL in (obj["metadata"].get("labels") or {}):
            raise MeshError(
                f"the mesh of this cluster is in namespace {where}; nothing was changed",
                hint=f"change it with --istioNamespace {where}, or ambientctl uninstall first",
            )


def _alone(plan: Plan, before: Objects) -> None:
    """A revision is a control plane; accounts, agents and tunnels are those of the first."""
    accounts = [one for one in before if one["kind"] == "ServiceAccount"]
    if plan.revision != DEFAULT_REVISION and not accounts:
        raise MeshError(
            f"there is no mesh that revision {plan.revision} could be a second control plane of",
            hint="ambientctl install without --revision first",
        )


async def _being_deleted(kube: KubeClient, system: str) -> None:
    try:
        found = await kube.get(NAMESPACES, system)
    except KubeError:  # not there yet, or not for us to see
        return
    if found["metadata"].get("deletionTimestamp"):
        raise MeshError(
            f"namespace {system} is being deleted{_what_holds(found)}; nothing was changed",
            hint=f"wait until it is gone; kubectl get namespace {system} -o yaml names what "
            "holds it",
        )


def _what_holds(namespace: Mapping[str, Any]) -> str:
    """What the namespace controller waits for, in its own words."""
    conditions = (namespace.get("status") or {}).get("conditions") or ()
    told = [
        str(one.get("message", ""))
        for one in conditions
        if one.get("status") == "True" and str(one.get("type", "")).endswith("Remaining")
    ]
    return f" ({'; '.join(told)})" if told else ""


async def strangers(kube: KubeClient, kinds: Kinds, plan: Plan) -> None:
    """Objects of these names that another tool made, such as Istio's. Raises MeshError."""
    found: dict[str, Mapping[str, Any]] = {}

    async def read(resource: Resource, obj: Manifest) -> None:
        metadata = obj["metadata"]
        try:
            live = await kube.get(resource, metadata["name"], metadata.get("namespace"))
        except KubeError:
            return  # who may not read it finds out by applying
        if (live["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            found[named(obj)] = live

    async with trio.open_nursery() as nursery:
        for obj in plan.objects:
            resource = await kinds.of(obj["apiVersion"], obj["kind"])
            if resource is not None and obj["kind"] != "Namespace":
                nursery.start_soon(read, resource, obj)
    if not found:
        return
    several = sorted(found, key=lambda name: found[name]["kind"] not in WORKLOADS)
    more = f" and {len(several) - NAMED} more" if len(several) > NAMED else ""
    raise MeshError(
        f"somebody else made {', '.join(several[:NAMED])}{more}{_image(found)}; "
        "nothing was changed",
        hint="remove them with the tool that made them (istioctl, helm, kubectl), or use that "
        "for this version, too; --force takes them over",
    )


def _image(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Of one of the workloads: it says whose they are."""
    for obj in found.values():
        if obj["kind"] in WORKLOADS:
            return f" ({obj['spec']['template']['spec']['containers'][0].get('image')})"
    return ""


async def rights(kube: KubeClient, kinds: Kinds, plan: Plan) -> None:
    """Nobody may give rights that he has not: the server says so before anything is changed.

    Raises MeshError.
    """
    roles = [one for one in plan.objects if one["kind"] == "ClusterRole"]
    try:
        await apply_all(kube, kinds, roles, dry_run=True)
    except MeshError as error:
        if not isinstance(error.__cause__, KubeError) or error.__cause__.status != FORBIDDEN:
            raise
        raise MeshError(
            f"{error}; nothing was changed",
            hint="install with the rights of a cluster administrator: whoever gives a role has to "
            "have its rights, or the verb escalate",
        ) from error
