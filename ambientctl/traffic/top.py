"""``ambientctl top``: live rates between workloads."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import click
import trio

from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options, known_namespace
from ambientctl.console import run
from ambientctl.options import grouped
from ambientctl.printing import dump, output_option, table, warn
from ambientctl.traffic.edges import HTTP, Counters, Edge, Traffic, difference
from ambientctl.traffic.scraping import scrape

HEADER = ("SOURCE", "DESTINATION", "MTLS", "CONN/S", "REQ/S", "ERRORS", "DENIED", "P50", "P99",
          "OUT/S", "IN/S")  # fmt: skip
WIDE = ("PROTOCOL", "SERVICE")
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
@click.option(
    "--interval",
    default=2.0,
    type=click.FloatRange(0.01, 3600),
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--count",
    default=0,
    type=click.IntRange(0),
    help="Tables to print; 0: until interrupted, on a terminal.",
)
@output_option("table", "wide", "json", "yaml")
@cluster_options
def command(
    cluster: Cluster, selection: Selection, interval: float, count: int, output: str
) -> None:
    """Show live rates for each pair of workloads, with the mark of mutual TLS.

    CONN/S are connections, REQ/S requests that a waypoint saw; without a waypoint there are no
    requests, since node tunnels do not look into connections. ERRORS are failed connections and
    answers 5xx, DENIED what a policy refused; OUT and IN are bytes from and to the source.
    """
    times = count or (0 if sys.stdout.isatty() and output in ("table", "wide") else 1)

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
        show(found, now - began, output, live=times == 0)
        if not any(map(_busy, found.values())):
            await nothing_seen(kube, namespace)
        before, began, number = after, now, number + 1


async def nothing_seen(kube: KubeClient, namespace: str | None) -> None:
    """Say so on standard error. Raises MeshError where there is no such namespace."""
    if namespace is not None:
        await known_namespace(kube, namespace)
    where = f" in namespace {namespace}" if namespace is not None else ""
    print(f"No traffic was seen{where}.", file=sys.stderr)


def show(found: Traffic, seconds: float, output: str, *, live: bool = False) -> None:
    """The busiest first; edges without any traffic in between are left out. What is shown live
    fits the terminal.
    """
    busy = list(_sorted({edge: one for edge, one in found.items() if _busy(one)}))
    if output in ("json", "yaml"):
        dump([as_object(edge, one, seconds) for edge, one in busy], output)
        return
    size = shutil.get_terminal_size() if live else None
    most = max(size.lines - 3, 1) if size else len(busy)
    wide = output == "wide"
    rows = [
        [*row(edge, one, seconds), *([edge.protocol, edge.service] if wide else [])]
        for edge, one in busy[:most]
    ]
    if rows:
        table([*HEADER, *(WIDE if wide else ())], rows, width=size.columns if size else None)
    if len(busy) > most:
        print(f"and {len(busy) - most} more")


def _busy(one: Counters) -> bool:
    return any((one.opened, one.failed, one.denied, one.sent, one.received, one.requests))


def _sorted(found: Traffic) -> Iterable[tuple[Edge, Counters]]:
    return sorted(found.items(), key=lambda e: (-e[1].requests, -e[1].opened, -e[1].sent, e[0]))


def row(edge: Edge, one: Counters, seconds: float) -> list[str]:
    """One line of the table."""
    http = edge.protocol == HTTP
    tried = one.opened + one.failed + one.denied
    bad, all_ = (one.errors, one.requests) if http else (one.failed, tried)
    p50, p99 = one.quantile(0.5), one.quantile(0.99)
    return [
        str(edge.source),
        str(edge.destination),
        "✔" if edge.secure else "✘",
        "-" if http else f"{one.opened / seconds:.1f}",
        f"{one.requests / seconds:.1f}" if http else "-",
        f"{bad / all_:.1%}" if all_ else "-",
        f"{one.denied / all_:.1%}" if all_ else "-",
        "-" if p50 is None else f"{p50:.0f} ms",
        "-" if p99 is None else f"{p99:.0f} ms",
        "-" if http else size(one.received / seconds),
        "-" if http else size(one.sent / seconds),
    ]


def as_object(edge: Edge, one: Counters, seconds: float | None) -> dict[str, Any]:
    """The same for programs: rates over ``seconds``, or totals."""
    unit = "" if seconds is None else "PerSecond"
    counts = {
        "connections": one.opened,
        "failed": one.failed,
        "requests": one.requests,
        "errors": one.errors,
        "denied": one.denied,
        "bytesOut": one.received,
        "bytesIn": one.sent,
    }
    return {
        "source": str(edge.source),
        "destination": str(edge.destination),
        "service": edge.service,
        "protocol": edge.protocol,
        "mutualTls": edge.secure,
        **{f"{name}{unit}": value / (seconds or 1) for name, value in counts.items()},
        "p50Milliseconds": one.quantile(0.5),
        "p99Milliseconds": one.quantile(0.99),
    }


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return ""
