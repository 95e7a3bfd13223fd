"""``ambientctl local``: a whole mesh on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import trio

from ambient.api.errors import MeshError, UsageError
from ambientctl.console import run
from ambientctl.local.layout import MAX_NODES
from ambientctl.local.log_files import plain
from ambientctl.local.manifest_files import sample_names
from ambientctl.local.mesh import LocalMesh
from ambientctl.local.mesh_status import MeshStatus
from ambientctl.local.report import Report
from ambientctl.local.up import Progress, UpOptions, down, up
from ambientctl.options import redirection_option

if TYPE_CHECKING:  # a fifth of the time of ``exec`` and ``logs``, which write no table
    from rich.console import Console

FOLLOW_LOOK_S = 0.2
"""How often ``logs -f`` looks for more."""
PLAIN_WIDTH = 200
"""Columns of a table that goes into a pipe or a file."""

name_option = click.option(
    "--name", default="default", show_default=True, help="Name of the mesh; several may run."
)


@click.group()
def local() -> None:
    """A whole mesh on this machine: nodes and pods are network namespaces."""


@local.command("up")
@click.option(
    "--nodes", type=click.IntRange(1, MAX_NODES), default=2, show_default=True, help="How many."
)
@click.option(
    "--sample",
    default="bookinfo",
    show_default=True,
    help=f"Application to start: none, {', '.join(sample_names())}.",
)
@name_option
@click.option("--bare", is_flag=True, help="Without the mesh: `ambientctl install` brings it.")
@redirection_option
@click.option("--rootless", is_flag=True, help="As root: use a user namespace all the same.")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port on 127.0.0.1 for kubectl [default: a free one].",
)
def up_command(name: str, **wanted: Any) -> None:
    """Start a mesh and return when it is ready. It runs until `ambientctl local down`."""
    from rich.console import Console

    options = UpOptions(name=name, **wanted)
    began = time.monotonic()
    console = Console(stderr=True)
    with _progress(console) as told:
        mesh = run(lambda: _up_or_interrupted(options, told))
    took_s = time.monotonic() - began
    named = "" if name == "default" else f" --name {name}"
    what = "cluster" if options.bare else "mesh"
    click.echo(f"{what} {name!r} is ready after {took_s:.1f} s")
    click.echo(f"  export KUBECONFIG={mesh.kubeconfig}")
    click.echo(f"  ambientctl local status{named}    ambientctl local down{named}")


@local.command("down")
@name_option
def down_command(name: str) -> None:
    """End a mesh: its processes, namespaces, rules, mounts and files."""
    if run(lambda: down(name)):
        click.echo(f"mesh {name!r} is gone")
    else:
        click.echo(f"mesh {name!r} is not running")


@local.command("status")
@name_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def status_command(name: str, output: str) -> None:
    """Show nodes, pods and what is enrolled."""
    status = run(LocalMesh.open(name).status)
    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(status), indent=2))
        return
    from rich.console import Console

    console = Console()
    _show(status, console if console.is_terminal else Console(width=PLAIN_WIDTH))


@local.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-c", "--container", default="", help="Default: the pod's first.")
@name_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(
    pod: str, namespace: str, container: str, name: str, command: Sequence[str]
) -> None:
    """Run COMMAND in a container of POD (its name, or that of its Deployment or DaemonSet).

    Put `--` before a command with options of its own.
    """
    request = {
        "op": "exec",
        "pod": pod,
        "namespace": namespace,
        "container": container,
        "argv": list(command),
    }
    _run_on_terminal(name, request)


@local.command("shell")
@click.argument("node")
@name_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell_command(node: str, name: str, command: Sequence[str]) -> None:
    """Run a shell, or COMMAND, in the network namespace of NODE."""
    argv = list(command) or [os.environ.get("SHELL", "/bin/sh")]
    _run_on_terminal(name, {"op": "exec", "node": node, "argv": argv})


@local.command("logs")
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-c", "--container", default="", help="Default: the pod's first.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@name_option
def logs_command(pod: str, namespace: str, container: str, follow: bool, name: str) -> None:
    """Print a container's output."""
    mesh = LocalMesh.open(name)
    _print_log(_log_file(mesh, pod, namespace, container), follow=follow)


@local.command("kubeconfig")
@name_option
def kubeconfig_command(name: str) -> None:
    """Print the path of the kubeconfig."""
    click.echo(LocalMesh.open(name).kubeconfig)


@local.command("env")
@name_option
def env_command(name: str) -> None:
    """Print what a shell evaluates to use the mesh: eval "$(ambientctl local env)"."""
    click.echo(f"export KUBECONFIG='{LocalMesh.open(name).kubeconfig}'")


def _log_file(mesh: LocalMesh, pod: str, namespace: str, container: str) -> Path:
    """By the pod's own name, also of a pod that has ended; else by its owner's name."""
    with contextlib.suppress(UsageError):
        return mesh.log_file(run(lambda: mesh.pod(pod, namespace)).name, namespace, container)
    return mesh.log_file(pod, namespace, container)


def _print_log(path: Path, *, follow: bool) -> None:
    rest = b""
    with path.open("rb") as file:
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            click.echo(plain(b"\n".join(lines)), nl=False)
            if not follow or not path.exists():
                return
            time.sleep(FOLLOW_LOOK_S)


def _run_on_terminal(name: str, request: dict[str, Any]) -> None:
    """Run a command of the mesh on our own descriptors and exit as it does."""
    mesh = LocalMesh.open(name)

    async def perform() -> int:
        return await mesh.run_with(request, (0, 1, 2))

    sys.exit(run(perform))


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """A line that changes on a terminal, one line for each stage elsewhere."""
    if not console.is_terminal:
        stages: list[str] = []

        def told(report: Report) -> None:
            if report.stage not in stages[-1:]:
                stages.append(report.stage)
                console.print(f"{report.stage}: {report.detail}", highlight=False)

        yield told
        return
    with console.status("starting") as status:
        yield lambda report: status.update(f"{report.stage}: {report.detail}")


class InterruptedStartError(MeshError):
    """Somebody pressed Ctrl-C, or ended us, before the mesh was ready."""

    exit_code = 130  # POSIX: 128 + SIGINT


async def _up_or_interrupted(options: UpOptions, told: Progress) -> LocalMesh:
    """``up``; a signal takes the half-made mesh down. Raises MeshError."""
    mesh: LocalMesh | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            mesh = await up(options, told)
            nursery.cancel_scope.cancel()
    if mesh is None:
        raise InterruptedStartError("the start was interrupted; nothing of it is left")
    return mesh


def _show(status: MeshStatus, console: Console) -> None:
    from rich.table import Table

    state = "ready" if status.ready else "starting"
    kind = "in a user namespace" if status.rootless else "as root"
    console.print(f"mesh [bold]{status.name}[/]: {state}, {kind}, process {status.pid}")
    nodes = Table(box=None, pad_edge=False)
    for column in ("NODE", "ADDRESS", "PODS", "READY", "CNI CHAIN", "REDIRECTION"):
        nodes.add_column(column)
    for node in status.nodes:
        ready = "yes" if node.ready else "no"
        by = f"ebpf ({node.ebpf_pods} pods)" if node.redirection == "ebpf" else node.redirection
        chain = " ".join(node.cni_chain)
        nodes.add_row(node.name, node.address, node.pod_range, ready, chain, by)
    console.print(nodes)
    pods = Table(box=None, pad_edge=False)
    for column in ("NAMESPACE", "POD", "READY", "STATUS", "MESH", "ADDRESS", "NODE", "RESTARTS"):
        pods.add_column(column, no_wrap=True)
    for pod in status.pods:
        pods.add_row(
            pod.namespace,
            pod.name,
            f"{pod.ready}/{pod.total}",
            pod.reason.partition(":")[0] or pod.phase,
            "enrolled" if pod.enrolled else "",
            pod.ip,
            pod.node,
            str(pod.restarts),
        )
    console.print(pods)
    enrolled = sum(pod.enrolled for pod in status.pods)
    console.print(f"{len(status.pods)} pods, {enrolled} enrolled")
    console.print(f"kubeconfig: {status.kubeconfig}", highlight=False)
    console.print(f"logs:       {status.logs}", highlight=False)
    named = "" if status.name == "default" else f" --name {status.name}"
    console.print(f"stop with:  ambientctl local down{named}", highlight=False)
