"""Connections and requests of the last minutes: live ones of tunnels, ended ones of the logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio

from ambient.api.errors import MeshError
from ambient.api.ports import ADMIN_PORT
from ambient.kube.core.objects import GATEWAY_NAME_LABEL
from ambient.kube.core.resources import KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.access_log import CONNECTION, Access, read_line
from ambientctl.logs import read_lines
from ambientctl.reach import TUNNELS, ask_json, port_of, running_pods
from ambientctl.why.replay import Seen, gathered, seen_in


async def observed(kube: KubeClient, since_s: int) -> tuple[list[Seen], list[str]]:
    """What was seen, and what could not be asked, one line each."""
    found: list[Seen] = []
    silent: list[str] = []

    async def read(pod: KubeObject, waypoint: tuple[str, str] | None) -> None:
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"

        def take(line: str) -> None:
            access = read_line(line)
            one = seen_in(access, waypoint) if access is not None else None
            if one is not None:
                found.append(one)

        try:
            if waypoint is None:
                found.extend(_live(await ask_json(kube, port_of(pod, ADMIN_PORT), "/connections")))
            await read_lines(kube, pod, take, since_s=since_s)
        except MeshError as error:
            silent.append(f"{name}: {error}")

    async with trio.open_nursery() as nursery:
        for pod in await running_pods(kube, None, TUNNELS):
            nursery.start_soon(read, pod, None)
        for pod in await running_pods(kube, None, GATEWAY_NAME_LABEL):
            metadata = pod["metadata"]
            gateway = metadata["labels"][GATEWAY_NAME_LABEL]
            nursery.start_soon(read, pod, (metadata["namespace"], gateway))
    return gathered(found), sorted(silent)


def _live(connections: Any) -> Iterable[Seen]:
    """Of a tunnel's ``/connections``."""
    for one in connections if isinstance(connections, list) else ():
        fields = {key: value for key, value in one.items() if isinstance(key, str)}
        found = seen_in(Access(CONNECTION, "", fields))
        if found is not None:
            yield found
