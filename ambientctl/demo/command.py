"""``ambientctl demo``: play the story and say what was seen."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.status import Status

from ambientctl.console import run
from ambientctl.demo.checks import Check, CheckFailedError, Outcome, attempt, play
from ambientctl.demo.stage import Stage
from ambientctl.demo.story import STORY, echo_connection
from ambientctl.local.mesh import LocalMesh
from ambientctl.local.report import Report as Progress
from ambientctl.local.up import UpOptions, down, up
from ambientctl.options import redirection_option


class Report(msgspec.Struct):
    """What ``--json`` prints."""

    checks: list[Outcome]
    ok: bool


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of progress.")
@click.option("--keep", is_flag=True, help="Leave the mesh running afterwards.")
@click.option("--name", default="demo", show_default=True, help="Name of the local mesh.")
@redirection_option
@click.option("--rootless", is_flag=True, help="Use a user namespace even as root.")
def demo(as_json: bool, keep: bool, name: str, **wanted: Any) -> None:
    """Start a mesh on this machine and show, step by step, what it does.

    Exit status 1 if any check failed.
    """
    console = Console(stderr=True, quiet=as_json, highlight=False)
    options = UpOptions(name=name, sample="bookinfo", **wanted)
    with console.status("starting the mesh") as status:
        narrator = Narrator(console, status)
        outcomes = run(lambda: tell(options, keep, narrator))
    report = Report(outcomes, all(outcome.ok for outcome in outcomes))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    elif keep:
        print(f"the mesh is still running; stop it with: ambientctl local down --name {name}")
    if not report.ok:
        raise SystemExit(1)


class Narrator:
    """Shows progress on the terminal while the story is told."""

    def __init__(self, console: Console, status: Status) -> None:
        self.console = console
        self.status = status

    def starting(self, progress: Progress) -> None:
        self.status.update(f"starting the mesh: {progress.stage} {progress.detail}".rstrip())

    def told(self, outcome: Outcome) -> None:
        mark = "[green]ok  [/]" if outcome.ok else "[red]FAIL[/]"
        self.console.print(f"{mark} {outcome.seconds:5.1f} s  [bold]{outcome.name}[/]")
        self.console.print(f"              {outcome.detail}", markup=False, soft_wrap=True)
        self.status.update("and now ...")


async def tell(options: UpOptions, keep: bool, narrator: Narrator) -> list[Outcome]:
    """Play everything: the mesh comes up, the story, the mesh goes."""
    stages: list[Stage] = []

    async def start(_: None) -> str:
        mesh = await up(options, narrator.starting)
        stages.append(Stage(mesh))
        return f"{options.nodes} nodes and the sample run; kubeconfig {mesh.kubeconfig}"

    outcomes = [await attempt(Check("local-mesh-up", start, deadline_s=120), None)]
    narrator.told(outcomes[0])
    try:
        for stage in stages:
            async with echo_connection(stage):
                outcomes += await play(STORY, stage, narrator.told)
    finally:
        if not keep:
            outcomes.append(await attempt(Check("nothing-left-behind", nothing_left), options.name))
            narrator.told(outcomes[-1])
    return outcomes


async def nothing_left(name: str) -> str:
    """Take the mesh down; ``down`` itself verifies that no process or file stays."""
    await down(name)
    if LocalMesh.find(name) is not None:
        raise CheckFailedError(f"the mesh {name} still runs")
    return "no process, namespace, mount or file of the mesh is left"
