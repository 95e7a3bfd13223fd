"""``ambientctl waypoint``: deploy, list and remove the L7 proxies of namespaces."""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

import click
import trio
import yaml

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import GATEWAYS, NAMESPACES, PODS
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options, known_namespace
from ambientctl.console import run
from ambientctl.groups import AliasedGroup
from ambientctl.listing import listing
from ambientctl.printing import age_of, dump, names, output_option, table, warn
from ambientctl.waypoint_labels import holders
from ambientctl.waypoint_labels import unlabel as remove_labels

Manifest = dict[str, Any]

WAYPOINT_CLASS: Final = "istio-waypoint"
USE_WAYPOINT: Final = "istio.io/use-waypoint"
WAYPOINT_FOR: Final = "istio.io/waypoint-for"
REVISION: Final = "istio.io/rev"
TRAFFIC_TYPES: Final = ("service", "workload", "all", "none")
FIELD_MANAGER: Final = "ambientctl"


class Wanted(NamedTuple):
    """The waypoint that the caller asks for; None leaves a label out."""

    name: str = "waypoint"
    traffic: str | None = None
    revision: str | None = None


def gateway_manifest(wanted: Wanted, namespace: str | None) -> Manifest:
    """The Gateway that stands for a waypoint (Gateway API, class istio-waypoint)."""
    labels = {WAYPOINT_FOR: wanted.traffic, REVISION: wanted.revision}
    metadata: Manifest = {"name": wanted.name}
    if namespace:
        metadata["namespace"] = namespace
    if any(labels.values()):
        metadata["labels"] = {key: value for key, value in labels.items() if value}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": metadata,
        "spec": {
            "gatewayClassName": WAYPOINT_CLASS,
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }


def programmed(gateway: Manifest) -> tuple[bool, str, str]:
    """(ready, reason, message) of a Gateway's Programmed condition."""
    for condition in gateway.get("status", {}).get("conditions", []):
        if condition["type"] == "Programmed":
            ready = condition["status"] == "True"
            return ready, condition.get("reason", ""), condition.get("message", "")
    return False, "Pending", "no controller has looked at it yet: is istiod-lite running?"


def waypoint_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value == "none":
        raise click.BadParameter("'none' is reserved: it is the label value that opts out")
    return value or "waypoint"


name_option = click.option(
    "--name",
    default="waypoint",
    callback=waypoint_name,
    shell_complete=completing.waypoints,
    help="Name of the waypoint.",
)
for_option = click.option(
    "--for", "traffic", type=click.Choice(TRAFFIC_TYPES), help="Traffic that it takes [service]."
)
revision_option = click.option(
    "-r",
    "--revision",
    shell_complete=completing.revisions,
    help="Control plane revision that owns it.",
)
timeout_option = click.option(
    "--waypoint-timeout", "timeout_s", default=90.0, show_default=True, help="Seconds to wait."
)


@click.group(cls=AliasedGroup)
def waypoint() -> None:
    """Deploy and inspect waypoints, the L7 proxies of namespaces."""


@waypoint.command()
@name_option
@for_option
@revision_option
@cluster_options
def generate(cluster: Cluster, name: str, traffic: str | None, revision: str | None) -> None:
    """Print the Gateway that `apply` would write."""
    wanted = Wanted(name, traffic, revision)
    print(yaml.safe_dump(gateway_manifest(wanted, cluster.namespace)), end="")


@waypoint.command()
@name_option
@for_option
@revision_option
@click.option("--enroll-namespace", "enroll", is_flag=True, help="Label the namespace to use it.")
@click.option("--overwrite", is_flag=True, help="Replace the namespace's present waypoint label.")
@click.option("-w", "--wait", is_flag=True, help="Wait until it is programmed.")
@timeout_option
@cluster_options
def apply(
    cluster: Cluster, wait: bool, timeout_s: float, enroll: bool, overwrite: bool, **wanted: Any
) -> None:
    """Deploy a waypoint into a namespace."""

    async def task() -> None:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            spec = Wanted(**wanted)
            labels = await namespace_labels(kube, namespace)
            if enroll and not overwrite:
                refuse_relabel(namespace, labels, spec.name)
            await write_gateway(kube, namespace, spec)
            if wait:
                await wait_until_programmed(kube, namespace, spec.name, timeout_s)
                print(f"waypoint {namespace}/{spec.name} is ready")
            if enroll:
                await enroll_namespace(kube, namespace, labels, spec.name)

    run(task)


def refuse_relabel(namespace: str, labels: dict[str, str], name: str) -> None:
    """MeshError where the namespace already uses another waypoint; before anything is changed."""
    present = labels.get(USE_WAYPOINT, name)
    if present != name:
        raise MeshError(
            f"namespace {namespace} already uses waypoint {present!r}; nothing was changed",
            hint="repeat with --overwrite to replace the label",
        )


async def write_gateway(kube: KubeClient, namespace: str, wanted: Wanted) -> None:
    """Apply the Gateway (server-side, field manager ``ambientctl``)."""
    gateway = gateway_manifest(wanted, namespace)
    name, manager = wanted.name, FIELD_MANAGER
    try:
        await kube.patch(
            GATEWAYS, name, gateway, namespace=namespace, kind="apply", field_manager=manager
        )
    except NotFound as error:
        raise MeshError(
            "the cluster does not know the kind Gateway",
            hint="install the Gateway API's custom resource definitions first",
        ) from error
    print(f"waypoint {namespace}/{name} applied")


async def enroll_namespace(
    kube: KubeClient, namespace: str, labels: dict[str, str], name: str
) -> None:
    """Label the namespace to use the waypoint; warns where the namespace is outside the mesh."""
    await kube.patch(NAMESPACES, namespace, {"metadata": {"labels": {USE_WAYPOINT: name}}})
    print(f'namespace {namespace} labeled with "{USE_WAYPOINT}: {name}"')
    if labels.get("istio.io/dataplane-mode") != "ambient":
        click.echo(
            f"warning: namespace {namespace} is not in the mesh; what its own pods call goes past "
            f"the waypoint\nhint: kubectl label namespace {namespace} "
            "istio.io/dataplane-mode=ambient",
            err=True,
        )


async def namespace_labels(kube: KubeClient, namespace: str) -> dict[str, str]:
    """The labels of a namespace; MeshError with the remedy where there is none."""
    try:
        found = await kube.get(NAMESPACES, namespace)
    except NotFound as error:
        raise MeshError(
            f"namespace {namespace} does not exist", hint=f"kubectl create namespace {namespace}"
        ) from error
    labels: dict[str, str] = found["metadata"].get("labels", {})
    return labels


async def wait_until_programmed(
    kube: KubeClient, namespace: str, name: str, timeout_s: float
) -> None:
    """Return once the Gateway is programmed; MeshError with its last reason after the time."""
    reason, message = "NotFound", "the Gateway does not exist"
    await kube.list(GATEWAYS, namespace)  # a watch would wait for a server that is away
    with trio.move_on_after(timeout_s):
        selector = f"metadata.name={name}"
        async for event in follow(kube, GATEWAYS, namespace=namespace, field_selector=selector):
            if event.kind in ("ADDED", "MODIFIED"):
                ready, reason, message = programmed(event.object)
                if ready:
                    return
    raise MeshError(
        f"waypoint {namespace}/{name} is not ready after {timeout_s:g} s: {reason}: {message}",
        hint=f"kubectl -n {namespace} describe gateway {name}; "
        f"kubectl -n {namespace} get pods -l gateway.networking.k8s.io/gateway-name={name}",
    )


async def waypoints(kube: KubeClient, namespace: str | None) -> list[Manifest]:
    """All Gateways of the waypoint class, by namespace and name."""
    found = [
        gateway
        for gateway in await kube.list(GATEWAYS, namespace)
        if gateway["spec"].get("gatewayClassName") == WAYPOINT_CLASS
    ]
    return sorted(found, key=lambda g: (g["metadata"]["namespace"], g["metadata"]["name"]))


all_namespaces_option = click.option(
    "-A", "--all-namespaces", "everywhere", is_flag=True, help="Look in all namespaces."
)


@waypoint.command("list")
@all_namespaces_option
@output_option("table", "wide", "json", "yaml", "name")
@listing
@cluster_options
def list_command(cluster: Cluster, everywhere: bool, output: str) -> None:
    """List waypoints with their effective traffic type and state."""

    async def task() -> list[Manifest]:
        async with cluster.connect() as kube:
            namespace = None if everywhere else cluster.namespace or kube.namespace
            there = await waypoints(kube, namespace)
            if not there and namespace is not None:
                await known_namespace(kube, namespace)
            return there

    found = run(task)
    if output == "name":
        names(f"gateway.gateway.networking.k8s.io/{one['metadata']['name']}" for one in found)
    elif output in ("json", "yaml"):
        kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway"}
        items = [{**kind, **one} for one in found]  # in a list the API server leaves it out
        dump({"apiVersion": "v1", "kind": "List", "items": items}, output)
    elif not found:
        print("No waypoints found.")
    else:
        header = ["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"]
        header += ["ADDRESSES", "AGE", "MESSAGE"] if output == "wide" else []
        rows = [list_row(one, everywhere=everywhere, wide=output == "wide") for one in found]
        table(["NAMESPACE", *header] if everywhere else header, rows)


def list_row(gateway: Manifest, *, everywhere: bool, wide: bool) -> list[str]:
    """One line of ``waypoint list``."""
    meta, labels = gateway["metadata"], gateway["metadata"].get("labels", {})
    ready, reason, message = programmed(gateway)
    row = [*([meta["namespace"]] if everywhere else []), meta["name"]]
    row += [labels.get(REVISION, "default"), labels.get(WAYPOINT_FOR, "service"), str(ready)]
    if wide:
        addresses = (gateway.get("status") or {}).get("addresses") or ()
        row += [",".join(str(one.get("value")) for one in addresses) or "-"]
        row += [
            age_of(meta.get("creationTimestamp") or "") or "-",
            "" if ready else f"{reason}: {message}",
        ]
    return row


@waypoint.command()
@click.argument("given", metavar="[NAME]", default="", shell_complete=completing.waypoints)
@name_option
@all_namespaces_option
@click.option("--wait/--no-wait", "-w", default=True, help="Wait until it is programmed.")
@timeout_option
@output_option("table", "json", "yaml")
@cluster_options
def status(
    cluster: Cluster, everywhere: bool, wait: bool, timeout_s: float, output: str, **named: str
) -> None:
    """Show a waypoint's state; exit status 1 where it is not programmed. With -A all waypoints."""

    async def task() -> list[Manifest]:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            if everywhere:
                several = await waypoints(kube, None)
            else:
                several = [await the_waypoint(kube, namespace, named["given"] or named["name"])]
            keys = list(map(_key, several))
            for where, name in keys if wait else ():
                await wait_until_programmed(kube, where, name, timeout_s)
            return [await the_waypoint(kube, *key) for key in keys]

    found = run(task)
    if output != "table":
        dump([status_of(one) for one in found], output)
    elif not found:
        print("No waypoints found.")
    else:
        rows = [list(map(str, status_of(one).values())) for one in found]
        header = ["NAMESPACE", "NAME", "STATUS", "TYPE", "REASON", "MESSAGE"]
        table(header[not everywhere :], [row[not everywhere :] for row in rows])
    if not all(programmed(one)[0] for one in found):
        raise SystemExit(1)


def _key(gateway: Manifest) -> tuple[str, str]:
    return gateway["metadata"]["namespace"], gateway["metadata"]["name"]


def status_of(gateway: Manifest) -> dict[str, Any]:
    """The condition that says whether it works; in the order of the table."""
    where, name = _key(gateway)
    ready, reason, message = programmed(gateway)
    return {
        "namespace": where, "name": name, "status": ready, "type": "Programmed",
        "reason": reason, "message": message,
    }  # fmt: skip


async def the_waypoint(kube: KubeClient, namespace: str, name: str) -> Manifest:
    """Raises MeshError that names those that there are."""
    try:
        return await kube.get(GATEWAYS, name, namespace)
    except NotFound as error:
        there = ", ".join(_key(one)[1] for one in await waypoints(kube, namespace)) or "none"
        raise MeshError(
            f"there is no waypoint {namespace}/{name}; waypoints there: {there}",
            hint=f"ambientctl waypoint apply -n {namespace} --name {name}",
        ) from error


@waypoint.command()
@click.argument("names", nargs=-1, shell_complete=completing.waypoints)
@click.option("--all", "everything", is_flag=True, help="Delete all waypoints of the namespace.")
@click.option(
    "--unlabel/--keep-labels",
    default=None,
    help="Also remove the labels that refer to them [asked, on a terminal].",
)
@revision_option
@cluster_options
def delete(
    cluster: Cluster,
    names: tuple[str, ...],
    everything: bool,
    unlabel: bool | None,
    revision: str | None,
) -> None:
    """Delete waypoints; says which labels still refer to them."""
    if names and everything:
        raise UsageError("give names or --all, not both")
    if not (names or everything or revision):
        raise UsageError("which waypoint?", hint="give names, --all or --revision")

    async def task() -> None:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            there = {
                gateway["metadata"]["name"]
                for gateway in await waypoints(kube, namespace)
                if revision in (None, gateway["metadata"].get("labels", {}).get(REVISION))
            }
            wanted = set(names) or there
            for name in sorted(wanted):
                if name in there:
                    await kube.delete(GATEWAYS, name, namespace)
                    print(f"waypoint {namespace}/{name} deleted")
                else:
                    print(f"waypoint {namespace}/{name} not found")
            await settle_labels(kube, {(namespace, name) for name in wanted}, unlabel)

    run(task)


async def settle_labels(
    kube: KubeClient, gone: set[tuple[str, str]], unlabelled: bool | None
) -> None:
    """Remove, or name, the labels that refer to deleted waypoints; None asks whoever is there."""
    found = await holders(kube, gone)
    if found and unlabelled is None and sys.stdin.isatty():
        print("\n".join(f"{one} still refers to {'/'.join(one.waypoint)}" for one in found))
        unlabelled = click.confirm(f"Remove the label {USE_WAYPOINT} from them?", default=True)
    for one in await remove_labels(kube, found) if unlabelled else found:
        template = one.resource is PODS
        warn(
            f"{one} is still labeled {USE_WAYPOINT}={one.waypoint[1]}; "
            "L7 policies do not apply to it",
            "take the label out of its template"
            if template
            else f"repeat with --unlabel, or {one.command}",
        )
