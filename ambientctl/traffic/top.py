"""``ambientctl top``: live rates between workloads."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import click
import trio

from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.options import grouped
from ambientctl.printing import dump, output_option, table, warn
from ambientctl.traffic.edges import HTTP, Counters, Edge, Traffic, difference
from ambientctl.traffic.scraping import scrape

HEADER = ("SOURCE", "DESTINATION", "MTLS", "CONN/S", "REQ/S", "ERRORS", "P50", "P99", "OUT/S",
          "IN/S")  # fmt: skip
CLEAR = "\x1b[H\x1b[2J"


class Selection(NamedTuple):
    """Which edges are shown."""

    everywhere: bool
    source: str
    destination: str

    def has(self, edge: Edge, namespace: str | None) -> bool:
        """Namespaces and names; a name is a part of the workload's."""
        spaces = {edge.source.namespace, edge.destination.namespace}
        if namespace is not None and namespace not in spaces:
            return False
        called = f"{edge.destination} {edge.service}"
        return self.source in str(edge.source) and self.destination in called


selection_options = grouped(
    "selection",
    Selection,
    click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces."),
    click.option("--from", "source", default="", help="Sources whose name has this in it."),
    click.option("--to", "destination", default="", help="Destinations, likewise."),
)


@click.command("top")
@selection_options
@click.option("--interval", default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", default=0, help="Tables to print; 0: until interrupted, on a terminal.")
@output_option("table", "json", "yaml")
@cluster_options
def command(
    cluster: Cluster, selection: Selection, interval: float, count: int, output: str
) -> None:
    """Show live rates for each pair of workloads, with the mark of mutual TLS.

    CONN/S are connections, REQ/S requests that a waypoint saw; without a waypoint there are no
    requests, since node tunnels do not look into connections. ERRORS are failed connections, or
    answers 5xx and 403; OUT and IN are bytes from and to the source.
    """
    times = count or (0 if sys.stdout.isatty() and output == "table" else 1)

    async def task() -> None:
        async with cluster.connect() as kube:
            namespace = None if selection.everywhere else cluster.namespace or kube.namespace
            await _watch(kube, (selection, namespace), interval, times, output)

    run(task)


async def _watch(
    kube: KubeClient,
    shown: tuple[Selection, str | None],
    interval: float,
    times: int,
    output: str,
) -> None:
    selection, namespace = shown
    before, _ = await scrape(kube)
    began = trio.current_time()
    number = 0
    while times == 0 or number < times:
        await trio.sleep(interval)
        after, silent = await scrape(kube)
        now = trio.current_time()
        found = {
            edge: counters
            for edge, counters in difference(before, after).items()
            if selection.has(edge, namespace)
        }
        if times == 0:
            print(CLEAR, end="")
        for line in silent:
            warn(f"not asked: {line}")
        show(found, now - began, output)
        before, began, number = after, now, number + 1


def show(found: Traffic, seconds: float, output: str) -> None:
    """The busiest first; edges without any traffic in between are left out."""
    busy = {edge: one for edge, one in found.items() if _busy(one)}
    if output != "table":
        dump([as_object(edge, one, seconds) for edge, one in _sorted(busy)], output)
        return
    table(HEADER, [row(edge, one, seconds) for edge, one in _sorted(busy)])


def _busy(one: Counters) -> bool:
    return any((one.opened, one.failed, one.sent, one.received, one.requests))


def _sorted(found: Traffic) -> Iterable[tuple[Edge, Counters]]:
    return sorted(found.items(), key=lambda e: (-e[1].requests, -e[1].opened, -e[1].sent, e[0]))


def row(edge: Edge, one: Counters, seconds: float) -> list[str]:
    """One line of the table."""
    http = edge.protocol == HTTP
    bad, all_ = (one.errors, one.requests) if http else (one.failed, one.opened + one.failed)
    p50, p99 = one.quantile(0.5), one.quantile(0.99)
    return [
        str(edge.source),
        str(edge.destination),
        "✔" if edge.secure else "✘",
        "-" if http else f"{one.opened / seconds:.1f}",
        f"{one.requests / seconds:.1f}" if http else "-",
        f"{bad / all_:.1%}" if all_ else "-",
        "-" if p50 is None else f"{p50:.0f} ms",
        "-" if p99 is None else f"{p99:.0f} ms",
        "-" if http else size(one.received / seconds),
        "-" if http else size(one.sent / seconds),
    ]


def as_object(edge: Edge, one: Counters, seconds: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "source": str(edge.source),
        "destination": str(edge.destination),
        "service": edge.service,
        "protocol": edge.protocol,
        "mutualTls": edge.secure,
        "connectionsPerSecond": one.opened / seconds,
        "failedPerSecond": one.failed / seconds,
        "requestsPerSecond": one.requests / seconds,
        "errorsPerSecond": one.errors / seconds,
        "p50Milliseconds": one.quantile(0.5),
        "p99Milliseconds": one.quantile(0.99),
        "bytesOutPerSecond": one.received / seconds,
        "bytesInPerSecond": one.sent / seconds,
    }


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""
