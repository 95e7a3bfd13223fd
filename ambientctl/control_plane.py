"""The control plane's replicas, and what they say of their proxies."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import trio

from ambient.api.errors import MeshError, UnavailableError
from ambient.api.ports import CONTROL_HTTP_PORT
from ambient.kube.core.resources import KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.reach import PodPort, ask, port_of, running_pods

SELECTOR: Final = "app=istiod"


class Proxy(NamedTuple):
    """One connected proxy, as one replica reports it."""

    name: str
    """``pod.namespace``."""
    kind: str
    cluster: str
    istiod: str
    version: str
    resources: dict[str, dict[str, Any]]
    """Type URL to name, status, sentTime, lastError."""
    raw: dict[str, Any]


async def replicas(
    kube: KubeClient, system: str, *, revision: str | None = None
) -> list[KubeObject]:
    """Running pods of the control plane. Raises MeshError where there are none."""
    selector = SELECTOR + (f",istio.io/rev={revision}" if revision else "")
    found = await running_pods(kube, system, selector)
    if not found:
        raise MeshError(
            f"no control plane runs in {system}",
            hint=f"kubectl -n {system} get pods -l {SELECTOR}; ambientctl install",
        )
    return found


async def proxies(kube: KubeClient, system: str, *, revision: str | None = None) -> list[Proxy]:
    """All proxies of all replicas, by name. Raises MeshError where no replica answers."""

    found: list[Proxy] = []
    failures: list[MeshError] = []

    async def read(pod: KubeObject) -> None:
        at = port_of(pod, CONTROL_HTTP_PORT)
        try:
            body = await ask(kube, at, "/debug/syncz")
        except MeshError as error:
            failures.append(error)
            return
        found.extend(_proxy(one, at.pod) for one in json.loads(body))

    pods = await replicas(kube, system, revision=revision)
    async with trio.open_nursery() as nursery:
        for pod in pods:
            nursery.start_soon(read, pod)
    if len(failures) == len(pods):
        raise failures[0]
    return sorted(found, key=lambda one: (one.name, one.istiod))


def _proxy(raw: dict[str, Any], istiod: str) -> Proxy:
    parts = str(raw.get("proxy", "")).split("~")
    name = parts[2] if len(parts) == 4 else str(raw.get("proxy", ""))
    return Proxy(
        name=name,
        kind=str(raw.get("proxy_type") or (parts[0] if len(parts) == 4 else "")),
        cluster=str(raw.get("cluster_id", "")),
        istiod=istiod,
        version=str(raw.get("istio_version") or raw.get("proxy_version") or ""),
        resources=raw.get("resources") or {},
        raw={**raw, "istiod": istiod},
    )


async def page(kube: KubeClient, system: str, path: str) -> bytes:
    """A page of whichever replica answers first. Raises MeshError where none does."""
    failure: MeshError = UnavailableError(f"no control plane answers in {system}")
    for pod in await replicas(kube, system):
        try:
            return await ask(kube, port_of(pod, CONTROL_HTTP_PORT), path)
        except MeshError as error:
            failure = error
    raise failure


def http_of(pod: KubeObject) -> PodPort:
    """The HTTP port of a replica."""
    return port_of(pod, CONTROL_HTTP_PORT)
