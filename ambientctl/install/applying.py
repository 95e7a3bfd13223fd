"""Objects into a cluster and out of it again, by server-side apply; repeatable at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import trio

from ambient.api.errors import MeshError, UnavailableError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import CUSTOM_RESOURCE_DEFINITIONS, KubeObject, Resource
from ambient.kube.io.client import KubeClient
from ambientctl.install.plan import (
    MANAGED_BY,
    MANAGER,
    Manifest,
    component,
    identity,
    named,
    waiting_for,
)

LOOK_S: Final = 1.0
SEARCHED: Final = (
    ("apps/v1", "Deployment"), ("apps/v1", "DaemonSet"), ("v1", "Service"),
    ("v1", "ConfigMap"), ("v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"), ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("policy/v1", "PodDisruptionBudget"), ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "ResourceQuota"),
    ("gateway.networking.k8s.io/v1", "GatewayClass"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"), ("monitoring.coreos.com/v1", "PodMonitor"),
)  # fmt: skip
"""Kinds of which an installation consists; where objects of an earlier one are looked for."""
Say = Callable[[str], None]


class Kinds:
    """URLs of kinds, as the API server tells them."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._groups: dict[str, dict[str, Resource]] = {}

    async def of(self, api_version: str, kind: str) -> Resource | None:
        """None where the cluster does not know it."""
        if api_version not in self._groups:
            self._groups[api_version] = await self._read(api_version)
        return self._groups[api_version].get(kind)

    def forget(self) -> None:
        """Definitions have come or gone."""
        self._groups.clear()

    async def _read(self, api_version: str) -> dict[str, Resource]:
        group, slash, version = api_version.partition("/")
        if not slash:
            group, version = "", api_version
        path = f"/apis/{api_version}" if slash else f"/api/{version}"
        try:
            answer = await self._kube.request("GET", path)
        except NotFound:
            return {}
        return {
            one["kind"]: Resource(group, version, one["name"], one["kind"], one["namespaced"])
            for one in answer.get("resources") or ()
            if "/" not in one["name"]
        }


async def apply_all(
    kube: KubeClient, kinds: Kinds, objects: Iterable[Manifest], *, dry_run: bool = False
) -> None:
    """Apply one after the other. Raises MeshError that names the object which was refused."""
    for obj in objects:
        resource = await kinds.of(obj["apiVersion"], obj["kind"])
        if resource is None:
            raise MeshError(
                f"the cluster does not know {obj['kind']} of {obj['apiVersion']}",
                hint="install its definition first, or leave the component out",
            )
        metadata = obj["metadata"]
        try:
            await kube.patch(
                resource,
                metadata["name"],
                obj,
                namespace=metadata.get("namespace") if resource.namespaced else None,
                kind="apply",
                field_manager=MANAGER,
                force=True,
                dry_run=dry_run,
            )
        except KubeError as error:
            hint = "correct the value; what was applied so far stays, and the same command goes on"
            first, *_ = error.message.splitlines()  # a list of rights may follow
            raise MeshError(
                f"{named(obj)} was refused: {first.rstrip(':')}",
                hint=error.hint or f"{hint} from here",
            ) from error


async def until_established(kube: KubeClient, names: Sequence[str], deadline: float) -> None:
    """Definitions are served. Raises MeshError after the time."""
    while True:
        found = {one["metadata"]["name"]: one for one in
                 await kube.list(CUSTOM_RESOURCE_DEFINITIONS)}  # fmt: skip
        missing = [name for name in names if not _established(found.get(name))]
        if not missing:
            return
        if trio.current_time() >= deadline:
            raise MeshError(
                f"definitions are not served: {', '.join(missing[:3])}",
                hint=f"kubectl describe crd {missing[0]}",
            )
        await trio.sleep(LOOK_S)


def _established(obj: Mapping[str, Any] | None) -> bool:
    conditions = ((obj or {}).get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


async def until_ready(
    kube: KubeClient, kinds: Kinds, workloads: Sequence[Manifest], limit_s: float, say: Say
) -> None:
    """All Deployments and DaemonSets are rolled out; says what it waits for. Raises MeshError."""
    deadline = trio.current_time() + limit_s
    left = list(workloads)
    told: dict[str, str] = {}
    while True:
        for obj in list(left):
            live = await _read(kube, kinds, obj)
            why = waiting_for(live) if live is not None else "gone"
            words = component(obj)
            if not why:
                left.remove(obj)
                say(f"✔ {words} is ready")
            elif told.get(words) != why:
                told[words] = why
                say(f"  {words}: {why}")
        if not left:
            return
        if trio.current_time() >= deadline:
            reasons = "; ".join(f"{component(one)}: {told[component(one)]}" for one in left)
            space = left[0]["metadata"].get("namespace", "")
            raise MeshError(
                f"not ready after {limit_s:g} s: {reasons}",
                hint=f"kubectl -n {space} get pods; ambientctl check",
            )
        await trio.sleep(LOOK_S)


async def _read(kube: KubeClient, kinds: Kinds, obj: Manifest) -> KubeObject | None:
    resource = await kinds.of(obj["apiVersion"], obj["kind"])
    assert resource is not None
    try:
        return await kube.get(resource, obj["metadata"]["name"], obj["metadata"].get("namespace"))
    except (NotFound, UnavailableError):
        return None


async def present(kube: KubeClient, kinds: Kinds) -> list[KubeObject]:
    """Everything that an installation of ours made, of all revisions."""
    found: list[KubeObject] = []
    for api_version, kind in SEARCHED:
        resource = await kinds.of(api_version, kind)
        if resource is None:
            continue
        with suppress(NotFound):  # its definition has just been deleted
            found += await kube.list(resource, None, f"{MANAGED_BY}={MANAGER}")
    return found


async def delete_all(kube: KubeClient, kinds: Kinds, objects: Iterable[Manifest]) -> int:
    """Delete; what is gone already does not matter. How many there were."""
    number = 0
    for obj in objects:
        resource = await kinds.of(obj["apiVersion"], obj["kind"])
        if resource is None:
            continue
        kind, namespace, name = identity(obj)
        try:
            await kube.delete(resource, name, namespace or None)
            number += 1
        except NotFound:
            continue
        except KubeError as error:
            raise MeshError(
                f"{kind} {name} was not deleted: {error.message}", hint=error.hint
            ) from error
    return number
