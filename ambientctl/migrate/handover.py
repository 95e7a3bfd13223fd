"""Policies go from sidecars to the waypoint, and pods are restarted, without a gap between."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.api.ports import ADMIN_PORT
from ambient.kube.core.errors import NotFound
from ambient.kube.core.objects import GATEWAY_NAME_LABEL, MANAGED_LABEL
from ambient.kube.core.resources import (
    AUTHORIZATION_POLICIES,
    DAEMON_SETS,
    DEPLOYMENTS,
    PODS,
    REQUEST_AUTHENTICATIONS,
    Resource,
)
from ambient.kube.io.client import KubeClient
from ambientctl.install.plan import waiting_for
from ambientctl.migrate.plan import Plan
from ambientctl.migrate.translation import Translation, widened
from ambientctl.reach import ask_json, port_of, running_pods
from cni_plugin.core.enrol import SIDECAR_ANNOTATION

KINDS: Final = {
    "AuthorizationPolicy": AUTHORIZATION_POLICIES,
    "RequestAuthentication": REQUEST_AUTHENTICATIONS,
}
STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
RESTARTED: Final = "kubectl.kubernetes.io/restartedAt"
LOOK_S: Final = 1.0
MANAGER: Final = "ambientctl"


async def hand_over(kube: KubeClient, found: Plan, limit_s: float) -> None:
    """Copies are in force at every pod of the waypoint before the old policies are narrowed.

    Raises MeshError where they are not after the time; then the old ones are as they were.
    """
    for one in found.translations:
        copy = one.copy
        name = copy["metadata"]["name"]
        await kube.patch(KINDS[copy["kind"]], name, copy, namespace=found.namespace, kind="apply",
                         field_manager=MANAGER, force=True)  # fmt: skip
    if not found.translations:
        return
    await _until_enforced(kube, found, limit_s)
    for one in found.translations:
        ref = one.policy.ref
        resource = KINDS[ref.kind]
        await kube.patch(resource, ref.key.name, one.narrowed, namespace=found.namespace)
        print(
            f"✔ {ref}: waypoint {found.waypoint} enforces it for {', '.join(one.services)}; "
            "itself, it is for pods with a sidecar now"
        )


async def _until_enforced(kube: KubeClient, found: Plan, limit_s: float) -> None:
    deadline = trio.current_time() + limit_s
    while True:
        missing = await _missing(kube, found)
        if not missing:
            return
        if trio.current_time() >= deadline:
            raise MeshError(
                f"after {limit_s:g} s the waypoint does not enforce {missing}; sidecars do",
                hint=f"ambientctl pc policy {found.waypoint}.{found.namespace}; "
                "ambientctl analyze; the same command goes on from here",
            )
        await trio.sleep(LOOK_S)


async def _missing(kube: KubeClient, found: Plan) -> str:
    """What some pod of the waypoint does not have yet; empty when all have everything."""
    selector = f"{GATEWAY_NAME_LABEL}={found.waypoint}"
    pods = await running_pods(kube, found.namespace, selector)
    if not pods:
        return f"anything: no pod of waypoint {found.waypoint} runs"
    for pod in pods:
        try:
            dump = await ask_json(kube, port_of(pod, ADMIN_PORT), "/config_dump")
        except MeshError as error:
            return f"anything that can be seen: {error}"
        programs = {str(one.get("service")).split("/")[-1]: one for one in dump["services"]}
        for one in found.translations:
            for service in one.services:
                host = f"{service}.{found.namespace}."
                program: dict[str, Any] = next(
                    (p for name, p in programs.items() if name.startswith(host)), {}
                )
                if not _enforces(program, one, found.namespace):
                    return f"{one.copy['metadata']['name']} for Service {service}"
    return ""


def _enforces(program: dict[str, Any], one: Translation, namespace: str) -> bool:
    if one.copy["kind"] == "RequestAuthentication":
        wanted = {rule.get("issuer") for rule in one.copy["spec"].get("jwtRules") or ()}
        return wanted <= set(program.get("issuers") or ())
    lists = ("allow", "deny", "dry_run", "custom", "audit")
    return any(
        f"{namespace}/{one.copy['metadata']['name']}" in (program.get(name) or ()) for name in lists
    )


async def widen(kube: KubeClient, namespace: str) -> list[str]:
    """Narrowed policies get their selectors back; their names."""
    names: list[str] = []
    for kind, resource in KINDS.items():
        try:
            found = await kube.list(resource, namespace)
        except NotFound:
            continue  # a cluster without that kind has none
        for obj in found:
            patch = widened(obj)
            if patch is not None:
                name = obj["metadata"]["name"]
                await kube.patch(resource, name, patch, namespace=namespace)
                names.append(f"{kind} {namespace}/{name}")
    return names


async def restart(kube: KubeClient, namespace: str) -> list[tuple[Resource, str]]:
    """As ``kubectl rollout restart`` does it; what was restarted."""
    started: list[tuple[Resource, str]] = []
    stamp = {RESTARTED: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    for resource in (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS):
        try:
            found = await kube.list(resource, namespace)
        except MeshError:
            continue  # a cluster without that kind has none
        for one in found:
            name = one["metadata"]["name"]
            if MANAGED_LABEL in (one["metadata"].get("labels") or {}):
                continue
            body = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
            await kube.patch(resource, name, body, namespace=namespace)
            started.append((resource, name))
    return started


async def until_restarted(
    kube: KubeClient, namespace: str, started: Iterable[tuple[Resource, str]], limit_s: float
) -> None:
    """All are rolled out. Raises MeshError that says what is not after the time."""
    deadline = trio.current_time() + limit_s
    left = list(started)
    while True:
        reasons = []
        for resource, name in list(left):
            why = waiting_for(await kube.get(resource, name, namespace))
            if why:
                reasons.append(f"{resource.kind} {name}: {why}")
            else:
                left.remove((resource, name))
        if not left:
            return
        if trio.current_time() >= deadline:
            raise MeshError(
                f"not restarted after {limit_s:g} s: {'; '.join(reasons)}",
                hint=f"kubectl -n {namespace} get pods; the same command goes on from here",
            )
        await trio.sleep(LOOK_S)


async def with_sidecars(kube: KubeClient, namespace: str) -> list[str]:
    """Pods that still have a sidecar: nobody restarts those without an owner."""
    return [
        pod["metadata"]["name"]
        for pod in await kube.list(PODS, namespace)
        if SIDECAR_ANNOTATION in (pod["metadata"].get("annotations") or {})
        and not pod["metadata"].get("deletionTimestamp")
    ]
