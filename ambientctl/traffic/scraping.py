"""Metrics of every tunnel and waypoint, at one moment."""

from __future__ import annotations

import trio

from ambient.api.errors import MeshError
from ambient.api.ports import STATS_PORT
from ambient.kube.core.resources import KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.reach import ask, port_of, proxy_pods
from ambientctl.traffic.edges import Traffic, read_all


async def scrape(kube: KubeClient) -> tuple[Traffic, list[str]]:
    """Traffic, and what could not be asked. Raises MeshError where nobody answers."""
    texts: dict[str, str] = {}
    silent: list[str] = []

    async def read(pod: KubeObject) -> None:
        at = port_of(pod, STATS_PORT)
        try:
            texts[f"{at.namespace}/{at.pod}"] = (await ask(kube, at, "/metrics")).decode()
        except (MeshError, UnicodeDecodeError) as error:
            silent.append(f"{at.namespace}/{at.pod}: {error}")

    pods = await proxy_pods(kube)
    async with trio.open_nursery() as nursery:
        for pod in pods:
            nursery.start_soon(read, pod)
    if not texts:
        raise MeshError(f"no proxy tells its metrics: {silent[0]}", hint="ambientctl check")
    try:
        return read_all(texts.values()), sorted(silent)
    except ValueError as error:
        raise MeshError(f"metrics that nobody can read: {error}") from error
