"""``ambientctl graph``: who calls whom, in the terminal or as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import trio

from ambient.api.errors import UsageError
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.printing import dump, output_option, warn
from ambientctl.traffic.edges import Edge, Node, Traffic, by_workloads, difference
from ambientctl.traffic.scraping import scrape
from ambientctl.traffic.svg import columns, draw, rate
from ambientctl.traffic.top import Selection, as_object, nothing_seen, selection_options


@click.command("graph")
@selection_options
@click.option(
    "--seconds",
    default=0.0,
    type=click.FloatRange(0, 3600),
    help="Rates over so long; 0: totals since the start.",
)
@click.option("-f", "--output-file", "path", help="Where to write (svg).")
@output_option("text", "svg", "json", "yaml")
@cluster_options
def command(
    cluster: Cluster, selection: Selection, seconds: float, path: str | None, output: str
) -> None:
    """Show the service graph: flows between workloads with rates, errors and mutual TLS.

    A flow ends at a Service where no backend was chosen, as for a request that a policy denies.
    """

    async def task() -> Traffic:
        async with cluster.connect() as kube:
            namespace = None if selection.everywhere else cluster.namespace or kube.namespace
            found, silent = await scrape(kube)
            if seconds > 0:
                await trio.sleep(seconds)
                after, silent = await scrape(kube)
                found = difference(found, after)
            for line in silent:
                warn(f"not asked: {line}")
            seen = {
                edge: one
                for edge, one in found.items()
                if selection.has(edge, namespace)
                and (one.opened or one.failed or one.denied or one.requests)
            }
            if not seen:
                await nothing_seen(kube, namespace)
            return seen

    found = run(task)
    if output in ("json", "yaml"):
        dump([as_object(edge, one, seconds or None) for edge, one in sorted(found.items())], output)
    elif output == "svg":
        _write(path, draw(by_workloads(found), seconds))
    elif found:
        print("\n".join(tree(by_workloads(found), seconds)))


def _write(path: str | None, text: str) -> None:
    if path is None:
        print(text, end="")
        return
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    print(f"{path} written")


def tree(found: Traffic, seconds: float) -> Iterator[str]:
    """Each caller with what it calls, callers first; what was shown already is only named."""
    by_source: dict[Node, list[Edge]] = {}
    for edge in sorted(found):
        by_source.setdefault(edge.source, []).append(edge)
    shown: set[Node] = set()
    for column in columns(found):
        for node in column:
            if node in by_source and node not in shown:
                yield str(node)
                shown.add(node)
                yield from _below(node, "", by_source, found, shown, seconds)


def _below(
    node: Node,
    indent: str,
    by_source: dict[Node, list[Edge]],
    found: Traffic,
    shown: set[Node],
    seconds: float,
) -> Iterator[str]:
    edges = by_source.get(node, [])
    for number, edge in enumerate(edges):
        last = number == len(edges) - 1
        lock = "🔒" if edge.secure else "  "
        text = f"{edge.destination} ({rate(edge, found[edge], seconds)})"
        again = edge.destination in shown and edge.destination in by_source
        yield f"{indent}{'└' if last else '├'}─{lock} {text}{' …' if again else ''}"
        if not again:
            shown.add(edge.destination)
            deeper = indent + ("   " if last else "│  ")
            yield from _below(edge.destination, deeper, by_source, found, shown, seconds)
