"""``ambientctl authz``: the policies of a workload, and policies made from NetworkPolicies."""

from __future__ import annotations

import click
import yaml

from ambient.api.errors import MeshError
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.describe.policies import Row, in_order, of_service, of_workload, services_of
from ambientctl.describe.view import View
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.listing import listing
from ambientctl.pod_names import KINDS, near, place, pods_meant
from ambientctl.printing import dump, output_option, table, taken, warn
from istiod_lite.core.analysis.authorization_from_network import equivalent


@click.group("authz", cls=AliasedGroup)
def command() -> None:
    """Look at authorization: who enforces which policy."""


@command.command()
@click.argument("name", metavar="[POD|SERVICE/]NAME[.NAMESPACE]", shell_complete=completing.parties)
@system_option
@output_option("table", "json", "yaml")
@listing
@cluster_options
def check(cluster: Cluster, name: str, system: str, output: str) -> None:
    """List the policies that apply to a pod or service, by who enforces them.

    In the order in which they are asked: CUSTOM, DENY, ALLOW; LOG is a dry run.
    """

    async def task() -> list[Row]:
        async with cluster.connect() as kube:
            kind, given = _split(name)
            where = place(given, cluster.namespace or kube.namespace)
            return rows_of(await View.read(kube, system), kind, *where)

    rows = in_order(run(task))
    if output != "table":
        dump([row._asdict() for row in rows], output)
        return
    table(
        ["ACTION", "POLICY", "RULES", "ENFORCED BY", "KIND"],
        [[row.action, row.policy, str(row.rules), row.by, row.kind] for row in rows],
    )


def _split(name: str) -> tuple[str, str]:
    kind, slash, rest = name.partition("/")
    word = kind.partition(".")[0].lower()
    if slash and word in ("service", "services", "svc"):
        return "service", rest
    return ("pod", rest) if slash and word in KINDS else ("", name)


def rows_of(view: View, kind: str, namespace: str, name: str) -> list[Row]:
    """Policies of a pod, else of a service; of a service also those of its pods."""
    for needed in ("Pod", "Service", "Namespace"):
        view.reading.require(needed)
    workload = view.workload(namespace, name) if kind != "service" else None
    if workload is None and kind == "pod":
        items = [one.obj for one in view.corpus.items("Pod", namespace)]
        meant = [one["metadata"]["name"] for one in pods_meant(items, name)]
        workload = view.workload(namespace, taken(meant)) if meant else None
    if workload is not None:
        rows = [*of_workload(view, workload)]
        for service in services_of(view, workload):
            rows += of_service(view, *service)
        return rows
    known = view.service(namespace, name) if kind != "pod" else None
    if known is None:
        view.require_namespace(namespace)
        what = kind or "pod or service"
        there = {
            one.ref.key.name for k in ("Pod", "Service") for one in view.corpus.items(k, namespace)
        }
        hint = near(name, there, "there are") or "write NAME.NAMESPACE"
        raise MeshError(f"there is no {what} {namespace}/{name}", hint=hint)
    rows = [*of_service(view, namespace, name)]
    for endpoint in view.mesh.state.endpoints(known):
        rows += [row for row in of_workload(view, endpoint.workload) if row not in rows]
    return rows


@command.command("from-network-policy")
@click.argument("name")
@system_option
@cluster_options
def from_network_policy(cluster: Cluster, name: str, system: str) -> None:
    """Print the AuthorizationPolicy that says in identities what a NetworkPolicy says in addresses.

    Between pods of the mesh all traffic uses port 15008, so that a NetworkPolicy can no longer
    tell ports apart; this one can.
    """

    async def task() -> tuple[object, list[str]]:
        async with cluster.connect() as kube:
            where = place(name, cluster.namespace or kube.namespace)
            view = await View.read(kube, system)
            item = view.corpus.get("NetworkPolicy", *where)
            if item is None:
                raise MeshError(f"there is no NetworkPolicy {where[0]}/{where[1]}")
            return equivalent(view.corpus, item)

    policy, remarks = run(task)
    for remark in remarks:
        warn(remark)
    print(yaml.safe_dump(policy, sort_keys=False), end="")
