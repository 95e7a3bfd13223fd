"""``ambientctl check``: one word that says whether the mesh is healthy, or could be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import trio
from rich.console import Console

from ambient.api.errors import MeshError
from ambientctl.check import cluster as cluster_checks
from ambientctl.check import configuration, mesh
from ambientctl.check.clocks import clocks
from ambientctl.check.facts import Facts, gather
from ambientctl.check.reachability import reachability
from ambientctl.check.result import SYMBOLS, Result, State
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.printing import dump, output_option

COLOURS = {State.OK: "green", State.WARNING: "yellow", State.ERROR: "red", State.SKIPPED: "dim"}
AGAIN_S = 2.0


@click.command("check")
@click.option("--pre", "before", is_flag=True, help="Before an installation: only the cluster.")
@click.option("--wait", "wait_s", default=0.0, help="Seconds to look again until all is well.")
@system_option
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@click.option(
    "--probe/--no-probe", default=True, help="Let pods of the mesh reach for each other's tunnel."
)
@output_option("table", "short", "json")
@cluster_options
def command(cluster: Cluster, before: bool, strict: bool, output: str, **how: Any) -> None:
    """Check the cluster, the mesh, its certificates and its configuration.

    Every line that is not well has a remedy. Exit status 1 where something does not work.
    """
    bad = (State.ERROR, State.WARNING) if strict else (State.ERROR,)
    wait_s, system, probe = how["wait_s"], how["system"], how["probe"]

    async def task() -> list[Result]:
        deadline = trio.current_time() + wait_s
        while True:
            try:
                async with cluster.connect() as kube:
                    facts = await gather(kube, system, before=before, probe=probe)
                results = list(results_of(facts, before=before))
            except MeshError:
                if trio.current_time() >= deadline:
                    raise
            else:
                failed = any(one.state in bad for one in results)
                if not failed or trio.current_time() >= deadline:
                    return results
            await trio.sleep(AGAIN_S)

    results = run(task)
    if output == "json":
        dump([_object(one) for one in results], "json")
    else:
        show(results, short=output == "short")
    sys.exit(1 if any(one.state in bad for one in results) else 0)


def results_of(facts: Facts, *, before: bool) -> Iterator[Result]:
    """Every check, in the order in which things depend on each other."""
    yield from cluster_checks.kubernetes(facts, before=before)
    yield from cluster_checks.pod_security(facts)
    yield from cluster_checks.definitions(facts, before=before)
    yield from cluster_checks.nodes(facts)
    yield from cluster_checks.network_plugin(facts)
    if before:
        if mesh.installed(facts):
            text = f"a mesh is installed in {facts.system} already"
            remedy = "ambientctl check looks at it; ambientctl upgrade changes it"
            yield Result(
                category="mesh", name="installed", state=State.WARNING, text=text, remedy=remedy
            )
        return
    hidden = sorted({"Deployment", "DaemonSet"} - facts.reading.listed)
    if not mesh.installed(facts) and hidden:
        text = f"whether a mesh is in {facts.system} cannot be seen: {hidden[0]}s may not be read"
        remedy = f"kubectl auth can-i list {hidden[0].lower()}s -A; ask for a role that may"
        yield Result(category="mesh", name="installed", state=State.ERROR, text=text, remedy=remedy)
        return
    if not mesh.installed(facts):
        text = f"there is no mesh in {facts.system}"
        remedy = "ambientctl install; ambientctl check --pre looks whether it can be"
        yield Result(category="mesh", name="installed", state=State.ERROR, text=text, remedy=remedy)
        return
    yield from mesh.control_plane(facts)
    yield from mesh.daemon_sets(facts)
    yield from mesh.tunnels(facts)
    yield from clocks(mesh.CONTROL, facts.clocks, facts.server_clock, facts.nodes_of)
    yield from mesh.certificates(facts)
    yield from reachability(facts)
    yield from configuration.configuration(facts)
    yield configuration.summary(facts)


def _object(one: Result) -> dict[str, str]:
    made = {"category": one.category, "name": one.name, "state": one.state.value}
    return {**made, "text": one.text, **({"remedy": one.remedy} if one.remedy else {})}


def show(results: list[Result], *, short: bool) -> None:
    """Linkerd's layout: a heading for each category, a line for each check."""
    console = Console(highlight=False, soft_wrap=True)
    by_category: dict[str, list[Result]] = {}
    for one in results:
        if not short or one.state is not State.OK:
            by_category.setdefault(one.category, []).append(one)
    for category, several in by_category.items():
        console.print(category, style="bold", markup=False)
        console.print("-" * len(category), markup=False)
        for one in several:
            console.print(SYMBOLS[one.state], style=COLOURS[one.state], end=" ", markup=False)
            console.print(f"{one.name}: {one.text}", markup=False)
            if one.remedy:
                console.print(f"    remedy: {one.remedy}", style="dim", markup=False)
        console.print()
    worst = State.OK
    for state in (State.WARNING, State.ERROR):
        if any(one.state is state for one in results):
            worst = state
    console.print(f"Status check results are {SYMBOLS[worst]}", markup=False)
