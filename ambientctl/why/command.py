"""``ambientctl why SRC DST[:PORT]``."""

from __future__ import annotations

import click
import msgspec
import yaml
from rich.console import Console

from ambient.api.errors import UsageError
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.why.parties import read_source, read_target
from ambientctl.why.snapshot import read_mesh
from ambientctl.why.walk import Http, Walk, walk


@click.command()
@click.argument("src")
@click.argument("dst")
@click.option("--method", default="GET", show_default=True, help="HTTP method, for L7 rules.")
@click.option("--path", default="/", show_default=True, help="HTTP path, for L7 rules.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="HTTP header.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", help="Format."
)
@cluster_options
def why(
    cluster: Cluster, src: str, dst: str, headers: tuple[str, ...], output: str, **http: str
) -> None:
    """Say which way a connection from SRC to DST takes, and which rule lets it pass or not.

    SRC is a pod or app (NAMESPACE/NAME), an IP address, or a SPIFFE id. DST is a service
    (NAME.NAMESPACE), a pod (NAMESPACE/NAME) or an IP address, with :PORT where it has several.
    The answer is worked out from the cluster's objects with the functions that the proxies use;
    no traffic is sent.
    """
    request = Http(http["method"].upper(), http["path"], tuple(map(read_header, headers)))

    async def task() -> Walk:
        async with cluster.connect() as kube:
            namespace = cluster.namespace or kube.namespace
            mesh = await read_mesh(kube)
        source = read_source(mesh, src, namespace)
        return walk(
            mesh, source, read_target(mesh, dst, source.workload.namespace or namespace), request
        )

    answer = run(task)
    if output == "text":
        show(answer)
    else:
        built = msgspec.to_builtins(answer)
        print(
            msgspec.json.format(msgspec.json.encode(built), indent=2).decode()
            if output == "json"
            else yaml.safe_dump(built, sort_keys=False),
            end="\n" if output == "json" else "",
        )


def read_header(text: str) -> tuple[str, str]:
    """Split ``name:value``; names are lower-case inside the mesh."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"header {text!r} has no colon", hint="--header 'name: value'")
    return name.strip().lower(), value.strip()


def show(answer: Walk) -> None:
    """Print the walk for a person."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{answer.source} -> {answer.destination}", style="bold", markup=False)
    width = max(len(hop.at) for hop in answer.hops)
    for number, hop in enumerate(answer.hops, 1):
        by = f" [by {hop.by}]" if hop.by else ""
        style = "" if hop.passes else "red"
        console.print(f"  {number}. {hop.at:<{width}}  {hop.what}{by}", style=style, markup=False)
    verdict = "allowed" if answer.allowed else "DENIED"
    decided = f", decided by {answer.decided_by}" if answer.decided_by else ""
    style = "green" if answer.allowed else "bold red"
    console.print(f"{verdict}{decided}", style=style, markup=False)
    if answer.change:
        console.print(f"to let it pass: {answer.change}", markup=False)
