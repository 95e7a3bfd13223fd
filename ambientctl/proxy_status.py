"""``ambientctl proxy-status``: is every proxy connected, and has it what it should have?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from ambient.api.errors import MeshError
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.kube.io.client import KubeClient
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.control_plane import Proxy, proxies
from ambientctl.global_options import system_option
from ambientctl.listing import listing
from ambientctl.pod_names import near, place, pods_meant
from ambientctl.printing import age_of, dump, output_option, table
from ambientctl.reach import running_pods

SHORT: Final = {
    ADDRESS_TYPE: "WDS",
    AUTHORIZATION_TYPE: "WADS",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster": "CDS",
    "type.googleapis.com/envoy.config.listener.v3.Listener": "LDS",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment": "EDS",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration": "RDS",
}


@click.command("proxy-status")
@click.argument("pod", default="", shell_complete=completing.proxies)
@click.option("-v", "--verbosity", type=click.IntRange(0, 1), default=0, help="1: each type.")
@system_option
@click.option(
    "-r",
    "--revision",
    shell_complete=completing.revisions,
    help="Of this revision's control plane only.",
)
@click.option("-A", "--all-namespaces", is_flag=True, hidden=True, expose_value=False)
@output_option("table", "json", "yaml")
@listing
@cluster_options
def command(
    cluster: Cluster, pod: str, verbosity: int, system: str, revision: str | None, output: str
) -> None:
    """Show the proxies that are connected to the control plane, and what each one has.

    Exit status 1 where a proxy has refused something.
    """

    async def task() -> list[Proxy]:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            found = await proxies(kube, system, revision=revision)
            return await _of(kube, found, pod, namespace) if pod else found

    found = run(task)
    if output == "table":
        show(found, 1 if pod else verbosity)
    else:
        dump([one.raw for one in found], output)
    refused = [one for one in found if any(r.get("lastError") for r in one.resources.values())]
    if refused:
        raise SystemExit(1)


async def _of(kube: KubeClient, found: Sequence[Proxy], given: str, namespace: str) -> list[Proxy]:
    """The proxy of this name, or those of the Deployment, app or Gateway. Raises MeshError."""
    where, short = place(given, namespace)
    names = {f"{short}.{where}"}
    if not any(one.name in names for one in found):
        pods = pods_meant(await running_pods(kube, where, ""), short)
        names = {f"{pod['metadata']['name']}.{where}" for pod in pods}
    of_it = [one for one in found if one.name in names]
    if not of_it:
        raise MeshError(
            f"proxy {short}.{where} is not connected to the control plane",
            hint=near(f"{short}.{where}", (one.name for one in found), "connected are")
            + "; write NAME.NAMESPACE",
        )
    return of_it


def show(found: Sequence[Proxy], verbosity: int) -> None:
    """istioctl's tables; what was refused below them."""
    if not found:
        print("No proxies are connected.")
        return
    if not verbosity:
        rows = [[o.name, o.cluster, o.istiod, o.version, _types(o)] for o in found]
        table(["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"], rows)
    else:
        names = sorted({name_of(url, r) for one in found for url, r in one.resources.items()})
        rows = [[one.name, one.cluster, *_states(one, names), one.istiod, one.version]
                for one in found]  # fmt: skip
        table(["NAME", "CLUSTER", *names, "ISTIOD", "VERSION"], rows)
    for one in found:
        for url, resource in one.resources.items():
            if resource.get("lastError"):
                print(f"{one.name} refuses {name_of(url, resource)}: {resource['lastError']}")


def name_of(url: str, resource: dict[str, Any]) -> str:
    """The short name of a type: istiod's own, Istio's, or the last part of its URL."""
    told = str(resource.get("name") or "")
    return told if told and told != url else SHORT.get(url, url.rpartition(".")[2])


def _types(one: Proxy) -> str:
    names = sorted(name_of(url, resource) for url, resource in one.resources.items())
    return f"{len(names)} ({','.join(names)})"


def _states(one: Proxy, names: Sequence[str]) -> list[str]:
    by_name = {name_of(url, resource): resource for url, resource in one.resources.items()}
    cells = []
    for name in names:
        resource = by_name.get(name)
        if resource is None:
            cells.append("IGNORED")
            continue
        state = str(resource.get("status") or "NOT_SENT").replace("_", " ")
        age = age_of(str(resource.get("sentTime") or ""))
        cells.append(f"{state} ({age})" if age else state)
    return cells
