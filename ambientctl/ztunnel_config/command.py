"""``ambientctl ztunnel-config``: what the node tunnels know and do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import click
import trio

from ambient.api.errors import UsageError
from ambient.api.ports import ADMIN_PORT
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.json_file import read_json
from ambientctl.listing import listing
from ambientctl.log_levels import level_option, log_levels, reset_option
from ambientctl.options import grouped
from ambientctl.printing import dump as print_dump
from ambientctl.printing import output_option, table
from ambientctl.reach import ask_json, port_of
from ambientctl.ztunnel_config.dump import Dump, Filters, merged
from ambientctl.ztunnel_config.finding import find_tunnels

Rows = Callable[[Dump, Filters, bool], Iterator[list[str]]]
TABLES: Final[dict[str, tuple[str, tuple[str, ...], Rows, str]]] = {
    "workload": (
        "workloads",
        ("NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"),
        lambda dump, how, _: dump.workload_rows(how),
        "WORKLOAD INFO",
    ),
    "service": (
        "services",
        ("NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"),
        lambda dump, how, _: dump.service_rows(how),
        "SERVICE INFO",
    ),
    "policy": (
        "policies",
        ("NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"),
        lambda dump, how, _: dump.policy_rows(how),
        "POLICY INFO",
    ),
    "certificate": (
        "certificates",
        ("CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER",
         "NOT BEFORE"),
        lambda dump, how, _: dump.certificate_rows(how),
        "SECRET INFO",
    ),
    "connections": (
        "workloadState",
        ("WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"),
        lambda dump, how, raw: dump.connection_rows(how, raw=raw),
        "CONNECTIONS INFO",
    ),
}  # fmt: skip
"""Command: key of the dump, header, rows, and istioctl's heading in ``all``."""
ALIASES: Final = {
    **dict.fromkeys(("w", "workloads"), "workload"),
    **dict.fromkeys(("s", "svc", "services"), "service"),
    **dict.fromkeys(("p", "pol", "policies"), "policy"),
    **dict.fromkeys(("cert", "certs", "certificates"), "certificate"),
    "cons": "connections",
    "o": "log",
}


@click.group("ztunnel-config", cls=AliasedGroup, aliases=ALIASES)
def command() -> None:
    """Show what ztunnel knows: workloads, services, policies, certificates, connections."""


class Where(NamedTuple):
    """Where a dump comes from."""

    pod: str
    node: str
    path: str | None
    port: int
    system: str


source_options = grouped(
    "where",
    Where,
    click.argument("pod", default="", shell_complete=completing.pods),
    click.option(
        "--node", default="", shell_complete=completing.nodes, help="The ztunnel of this node."
    ),
    click.option("-f", "--file", "path", help="A dump from a file, - for standard input."),
    click.option("--proxy-admin-port", "port", default=ADMIN_PORT, show_default=True),
    system_option,
)
everywhere_option = click.option(
    "-A", "--all-namespaces", is_flag=True, hidden=True, expose_value=False
)
"""What these commands do anyway, for fingers that are used to it."""


def rows_wanted(address: str, namespace_: str, node_: str, direction: str | None) -> Filters:
    return Filters(address, namespace_, node_, direction or "")


filter_options = grouped(
    "how",
    rows_wanted,
    click.option("--address", default="", help="Workloads with this address."),
    click.option(
        "--workload-namespace", "--service-namespace", "--policy-namespace", "namespace_",
        default="", help="Rows of this namespace.",
    ),
    click.option("--workload-node", "node_", default="", help="Workloads of this node."),
    click.option("--direction", type=click.Choice(("inbound", "outbound"))),
)  # fmt: skip


def _table_command(name: str) -> click.Command:
    _, header, rows, _ = TABLES[name]

    @command.command(name)
    @source_options
    @filter_options
    @click.option("--raw", is_flag=True, help="Addresses instead of names.")
    @everywhere_option
    @output_option("short", "json", "yaml")
    @listing
    @cluster_options
    def show(cluster: Cluster, output: str, raw: bool, how: Filters, where: Where) -> None:
        dumps, pod = read_dumps(cluster, where, every=name in ("certificate", "connections"))
        whole = Dump(merged(dumps))
        if output == "short":
            gap = 5 if name == "certificate" else 3
            table(header, list(rows(whole, how._replace(pod=pod), raw)), gap=gap)
        else:
            print_dump(whole.raw.get(TABLES[name][0]), output)

    show.help = f"Show {TABLES[name][0]} of the tunnel of POD, of a node, or of any tunnel."
    return show


for _name in TABLES:
    _table_command(_name)


@command.command("all")
@source_options
@click.option("--with-headers", is_flag=True, help="A heading above each table.")
@everywhere_option
@output_option("short", "json", "yaml")
@cluster_options
def all_command(cluster: Cluster, output: str, with_headers: bool, where: Where) -> None:
    """Show everything."""
    dumps, pod = read_dumps(cluster, where, every=True)
    whole = Dump(merged(dumps))
    if output != "short":
        print_dump(whole.raw, output)
        return
    for number, (_, header, rows, heading) in enumerate(TABLES.values()):
        if number:
            print()
        if with_headers:
            print(f"------ {heading} ------")
        table(header, list(rows(whole, Filters(pod=pod), False)))


@command.command("log")
@level_option
@reset_option
@source_options
@cluster_options
def log_command(cluster: Cluster, level: str | None, reset: bool, where: Where) -> None:
    """Show or set log levels; of all tunnels where none is named."""

    async def task() -> list[str]:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            found = await find_tunnels(kube, where.pod, where.node, namespace, where.system)
            return await log_levels(kube, found.tunnels, where.port, level, reset=reset)

    print("\n".join(run(task)), end="")


def read_dumps(
    cluster: Cluster, where: Where, *, every: bool
) -> tuple[list[Dump], tuple[str, str] | None]:
    """The dumps that are meant; ``every``: tunnels differ in this, so that all are asked."""
    if where.path is not None:
        if where.pod or where.node:
            raise UsageError("give one of a file, a pod and --node")
        return [Dump(read_json(where.path))], None

    async def task() -> tuple[list[Dump], tuple[str, str] | None]:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            found = await find_tunnels(kube, where.pod, where.node, namespace, where.system)
            asked = found.tunnels if every or found.pod else found.tunnels[:1]
            dumps: dict[str, Dump] = {}

            async def read(one: Any) -> None:
                at = port_of(one, where.port)
                dumps[at.pod] = Dump(await ask_json(kube, at, "/config_dump"))

            async with trio.open_nursery() as nursery:
                for one in asked:
                    nursery.start_soon(read, one)
            return [dumps[name] for name in sorted(dumps)], found.pod

    return run(task)
