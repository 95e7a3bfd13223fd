"""``ambientctl proxy-config``: what a waypoint has made of its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import click

from ambient.api.errors import MeshError, UsageError
from ambient.api.ports import ADMIN_PORT
from ambient.kube.core.errors import NotFound
from ambient.kube.core.objects import GATEWAY_NAME_LABEL
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.groups import AliasedGroup
from ambientctl.json_file import read_json
from ambientctl.listing import listing
from ambientctl.log_levels import level_option, log_levels, reset_option
from ambientctl.options import grouped
from ambientctl.pod_names import near, place, pods_meant
from ambientctl.printing import dump, output_option, table, taken
from ambientctl.reach import ask_json, port_of, running_pods

ALIASES: Final = {
    **dict.fromkeys(("routes", "r"), "route"),
    **dict.fromkeys(("endpoints", "ep", "cluster", "clusters", "c"), "endpoint"),
    **dict.fromkeys(("secrets", "s"), "secret"),
    **dict.fromkeys(("policies", "authz"), "policy"),
    **dict.fromkeys(("objects",), "object"),
}


@click.group("proxy-config", cls=AliasedGroup, aliases=ALIASES)
def command() -> None:
    """Show a waypoint's routes, endpoints, policies, certificates and objects.

    POD is a waypoint's pod or Gateway, NAME[.NAMESPACE]. For node tunnels: ztunnel-config.
    """


async def find_waypoint(kube: KubeClient, name: str, namespace: str) -> KubeObject:
    """A waypoint's pod, by its own name or by its Gateway's. Raises MeshError."""
    where, short = place(name, namespace)
    try:
        pod = await kube.get(PODS, short, where)
    except NotFound:
        pods = await running_pods(kube, where, "")
        of_gateway = [one for one in pods if _gateway(one) == short]
        found = of_gateway or pods_meant(pods, short)
        if not found:
            waypoints = {gateway for one in pods if (gateway := _gateway(one))}
            raise MeshError(
                f"there is neither a pod nor a waypoint {short} in {where}",
                hint=near(short, waypoints, "waypoints there") or "ambientctl waypoint list -A",
            ) from None
        taken([one["metadata"]["name"] for one in found])
        pod = found[0]
    labels = pod["metadata"].get("labels") or {}
    if labels.get("app") == "ztunnel":
        raise UsageError(f"{short} is a ztunnel", hint=f"ambientctl ztunnel-config all {name}")
    if GATEWAY_NAME_LABEL not in labels:
        raise MeshError(
            f"pod {where}/{short} is no waypoint", hint=f"its tunnel: ambientctl zc all {name}"
        )
    return pod


def _gateway(pod: KubeObject) -> str:
    return str((pod["metadata"].get("labels") or {}).get(GATEWAY_NAME_LABEL) or "")


class Where(NamedTuple):
    """Where a dump comes from."""

    pod: str
    port: int
    path: str | None


def _read(cluster: Cluster, where: Where) -> dict[str, Any]:
    if where.path is not None:
        kept = read_json(where.path)
        if not isinstance(kept, dict) or "services" not in kept:
            raise MeshError(f"{where.path} is no dump of a waypoint", hint="give that of pc all")
        return kept
    if not where.pod:
        raise UsageError("which waypoint?", hint="ambientctl waypoint list -A")

    async def task() -> dict[str, Any]:
        async with cluster.connect() as kube:
            found = await find_waypoint(kube, where.pod, cluster.namespace or kube.namespace)
            at = port_of(found, where.port)
            answer: dict[str, Any] = await ask_json(kube, at, "/config_dump")
            return answer

    return run(task)


where_options = grouped(
    "where",
    Where,
    click.argument("pod", default="", shell_complete=completing.waypoints),
    click.option("--proxy-admin-port", "port", default=ADMIN_PORT, show_default=True),
    click.option("-f", "--file", "path", help="A dump from a file, - for standard input."),
)
service_option = click.option("--fqdn", default="", help="Of this service: its name, or a part.")


def _services(found: dict[str, Any], fqdn: str) -> Iterable[dict[str, Any]]:
    return (one for one in found.get("services") or () if fqdn in str(one.get("service")))


@command.command()
@where_options
@service_option
@click.option("--name", default="", help="Routes with this name.")
@output_option("short", "json", "yaml")
@listing
@cluster_options
def route(cluster: Cluster, where: Where, fqdn: str, name: str, output: str) -> None:
    """Show the routes of each service and port."""
    found = [
        {"service": one["service"], "port": port, **route_}
        for one in _services(_read(cluster, where), fqdn)
        for port, routes in (one.get("routes") or {}).items()
        for route_ in routes
        if name in str(route_.get("name"))
    ]
    if output != "short":
        dump(found, output)
        return
    rows = [
        [
            str(one["service"]), one["port"], str(one.get("name") or "-"),
            ", ".join(one.get("match") or ()) or "*", str(one.get("action")), _backends(one),
            str(one.get("source") or "-"),
        ]
        for one in found
    ]  # fmt: skip
    table(["SERVICE", "PORT", "NAME", "MATCH", "ACTION", "BACKENDS", "SOURCE"], rows)


def _backends(one: dict[str, Any]) -> str:
    found = one.get("backends") or ()
    return ", ".join(f"{b.get('backend')} {float(b.get('share', 0)):.0%}" for b in found) or "-"


@command.command()
@where_options
@service_option
@click.option("--status", default="", help="Endpoints with this status.")
@output_option("short", "json", "yaml")
@listing
@cluster_options
def endpoint(cluster: Cluster, where: Where, fqdn: str, status: str, output: str) -> None:
    """Show the endpoints of each service."""
    found = [
        {"service": one["service"], **endpoint_}
        for one in _services(_read(cluster, where), fqdn)
        for endpoint_ in one.get("endpoints") or ()
        if not status or str(endpoint_.get("status")).lower() == status.lower()
    ]
    if output != "short":
        dump(found, output)
        return
    rows = [
        [",".join(one.get("addresses") or ()) or "-", str(one.get("status")),
         str(one.get("workload")), str(one["service"])]
        for one in found
    ]  # fmt: skip
    table(["ENDPOINT", "STATUS", "WORKLOAD", "SERVICE"], rows)


@command.command()
@where_options
@service_option
@output_option("short", "json", "yaml")
@listing
@cluster_options
def policy(cluster: Cluster, where: Where, fqdn: str, output: str) -> None:
    """Show which policies the waypoint applies to each service, in the order of their verdicts."""
    found = [
        {"service": one["service"], "action": action, "policy": name}
        for one in _services(_read(cluster, where), fqdn)
        for action, key in (("DENY", "deny"), ("ALLOW", "allow"), ("DRY RUN", "dry_run"))
        for name in one.get(key) or ()
    ]
    if output != "short":
        dump(found, output)
        return
    rows = [[str(one["service"]), one["action"], str(one["policy"])] for one in found]
    table(["SERVICE", "ACTION", "POLICY"], rows)


@command.command()
@where_options
@output_option("short", "json", "yaml")
@listing
@cluster_options
def secret(cluster: Cluster, where: Where, output: str) -> None:
    """Show the waypoint's certificates, and what ``credentialName`` stands for (never a key)."""
    read = _read(cluster, where)
    found, credentials = read.get("certificates") or {}, read.get("credentials") or []
    if output != "short":
        dump({"certificates": found, "credentials": credentials}, output)
        return
    rows = []
    for identity, one in found.items():
        if "error" in one:
            rows.append([identity, "UNAVAILABLE", "false", "NA", f"NA ({one['error']})"])
            continue
        ends, begins = (_moment(one.get(key)) for key in ("expires", "valid_from"))
        valid = begins <= datetime.now(UTC) < ends
        rows.append([identity, "ACTIVE", str(valid).lower(), _rfc(ends), _rfc(begins)])
    for one in credentials:
        rows += _credential_rows(one)
    table(["RESOURCE NAME", "STATUS", "VALID CERT", "NOT AFTER", "NOT BEFORE"], rows)


def _credential_rows(one: dict[str, Any]) -> list[list[str]]:
    """One line a certificate; one for a credential that is not there."""
    name = str(one.get("name"))
    rows = []
    for certificate in one.get("certificates") or ():
        ends, begins = (_moment(certificate.get(key)) for key in ("expires", "valid_from"))
        valid = begins <= datetime.now(UTC) < ends
        rows.append([name, "ACTIVE", str(valid).lower(), _rfc(ends), _rfc(begins)])
    return rows or [[name, "UNAVAILABLE", "false", "NA", "NA (the Secret does not supply it)"]]


def _moment(seconds: Any) -> datetime:
    return datetime.fromtimestamp(float(seconds or 0), UTC)


def _rfc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@command.command("object")
@where_options
@output_option("short", "json", "yaml")
@listing
@cluster_options
def object_command(cluster: Cluster, where: Where, output: str) -> None:
    """Show the Kubernetes objects that the waypoint acts on, and what it cannot use of them."""
    found = _read(cluster, where)
    objects, problems = found.get("objects") or [], found.get("problems") or []
    if output != "short":
        dump({"objects": objects, "problems": problems}, output)
        return
    table(
        ["KIND", "NAMESPACE", "NAME"],
        [[str(one.get(key)) for key in ("kind", "namespace", "name")] for one in objects],
    )
    for one in problems:
        print("not used: " + ", ".join(f"{key}={value}" for key, value in one.items()))


@command.command("all")
@where_options
@output_option("json", "yaml")
@cluster_options
def all_command(cluster: Cluster, where: Where, output: str) -> None:
    """Print the waypoint's whole configuration."""
    dump(_read(cluster, where), output)


@command.command("log")
@click.argument("pod", shell_complete=completing.waypoints)
@level_option
@reset_option
@click.option("--proxy-admin-port", "port", default=ADMIN_PORT, show_default=True)
@cluster_options
def log_command(cluster: Cluster, pod: str, level: str | None, reset: bool, port: int) -> None:
    """Show or set the log levels of a waypoint's pod."""

    async def task() -> list[str]:
        async with cluster.connect() as kube:
            found = await find_waypoint(kube, pod, cluster.namespace or kube.namespace)
            return await log_levels(kube, [found], port, level, reset=reset)

    print("\n".join(run(task)), end="")
