"""``ambientctl version``: of this program, the control plane and the data plane."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version as installed
from typing import Any

import click

from ambient.api.errors import MeshError
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.printing import dump, output_option, warn


@click.command()
@click.option("--remote/--no-remote", default=True, help="Ask the cluster, too.")
@click.option("-s", "--short", is_flag=True, help="This program's version and nothing else.")
@system_option
@output_option("text", "json", "yaml")
@cluster_options
def version(cluster: Cluster, remote: bool, short: bool, system: str, output: str) -> None:
    """Show the versions of this program, of the control plane and of the data plane."""
    found: dict[str, Any] = {"clientVersion": installed("ambient-mesh")}
    if short:
        print(found["clientVersion"])
        return
    if remote:
        try:
            found |= run(lambda: _remote(cluster, system))
        except MeshError as error:
            warn(f"the cluster was not asked: {error}", error.hint)
    if output != "text":
        dump(found, output)
        return
    print(f"client version: {found['clientVersion']}")
    for pod, told in (found.get("meshVersion") or {}).items():
        print(f"control plane version: {told} ({pod})")
    for told, number in (found.get("dataPlaneVersion") or {}).items():
        print(f"data plane version: {told} ({number} {'proxy' if number == 1 else 'proxies'})")
    _say_skew(found)


async def _remote(cluster: Cluster, system: str) -> dict[str, Any]:
    # Loaded only where a cluster is asked.
    from ambientctl.control_plane import http_of, proxies, replicas
    from ambientctl.reach import ask

    async with cluster.connect() as kube:
        mesh: dict[str, str] = {}
        for pod in await replicas(kube, system):
            body = await ask(kube, http_of(pod), "/version")
            mesh[pod["metadata"]["name"]] = body.decode().strip()
        connected = await proxies(kube, system)
        counts = Counter(one.version or "unknown" for one in connected)
        return {"meshVersion": mesh, "dataPlaneVersion": dict(sorted(counts.items()))}


def _say_skew(found: dict[str, Any]) -> None:
    """Istio's rule: the data plane may lag one minor version behind and must not be ahead."""
    control = {_minor(one) for one in (found.get("meshVersion") or {}).values()} - {None}
    data = {_minor(one) for one in found.get("dataPlaneVersion") or {}} - {None}
    client = _minor(str(found["clientVersion"]))
    if client is not None and any(one is not None and one != client for one in control):
        warn(
            f"the control plane has another version than this program ({found['clientVersion']}): "
            "what it says of itself may be read wrongly",
            "ambientctl upgrade, or take the ambientctl of that version",
        )
    if len(control) == 1 and data:
        (own,) = control
        if any(one is not None and own is not None and one > own for one in data):
            warn("a proxy is newer than the control plane", "upgrade the control plane first")
        elif any(
            one is not None and own is not None and (one[0] != own[0] or own[1] - one[1] > 1)
            for one in data
        ):
            warn("a proxy lags more than one minor version behind", "ambientctl upgrade")


def _minor(text: str) -> tuple[int, int] | None:
    parts = text.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])
