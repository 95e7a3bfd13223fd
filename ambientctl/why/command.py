"""``ambientctl why SRC DST[:PORT]``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console

from ambient.api.errors import MeshError, UsageError
from ambient.kube.io.client import KubeClient
from ambientctl import completing
from ambientctl.analyze.output import place
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.object_files import files_of, read_files
from ambientctl.options import grouped, seconds
from ambientctl.printing import dump, output_option, warn
from ambientctl.why.doubts import doubts
from ambientctl.why.mesh import Mesh
from ambientctl.why.observed import observed
from ambientctl.why.parties import Source, Target, read_source, read_target
from ambientctl.why.probe import Probed, probe, told
from ambientctl.why.replay import Seen, Turned, turned
from ambientctl.why.snapshot import index_mesh, overlaid, read_objects
from ambientctl.why.walk import Http, Walk, walk
from istiod_lite.core.analysis.corpus import Item

SHOWN = 20
"""Connections and notes that are listed."""


class Trial(NamedTuple):
    """What besides the answer: policies that are not applied yet, or a real connection."""

    dry_run: bool
    files: tuple[str, ...]
    since_s: int
    probe: bool = False


class Answer(NamedTuple):
    """``after`` is the answer with the files of a trial, ``turned`` what that does to others."""

    walk: Walk | None
    after: Walk | None = None
    looked_at: int = 0
    turned: tuple[Turned, ...] = ()
    silent: tuple[str, ...] = ()
    probed: Probed | MeshError | None = None


trial_options = grouped(
    "trial",
    lambda dry_run, files, since, probe: Trial(dry_run, files, since, probe),
    click.option("--dry-run", is_flag=True, help="Judge with the policies of -f."),
    click.option("-f", "--file", "files", multiple=True, help="Policies that are not applied yet."),
    click.option(
        "--since", default="10m", callback=seconds, show_default=True,
        help="With --dry-run: connections seen in this time are judged again.",
    ),
    click.option(
        "--probe", is_flag=True,
        help="Connect from inside the source pod, too, and compare; the request reaches DST.",
    ),
)  # fmt: skip
http_options = grouped(
    "request",
    lambda method, path, headers: Http(
        method.upper(), path, tuple(map(read_header, headers)), time.time()
    ),
    click.option("--method", default="GET", show_default=True, help="HTTP method, for L7 rules."),
    click.option("--path", default="/", show_default=True, help="HTTP path, for L7 rules."),
    click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="HTTP header."),
)


@click.command()
@click.argument("src", required=False, shell_complete=completing.parties)
@click.argument("dst", required=False, shell_complete=completing.parties)
@http_options
@trial_options
@output_option("text", "json", "yaml")
@cluster_options
def why(
    cluster: Cluster, src: str | None, dst: str | None, request: Http, trial: Trial, output: str
) -> None:
    """Say which way a connection from SRC to DST takes, and which rule lets it pass or not.

    SRC is a pod, app or service (NAMESPACE/NAME, NAME.NAMESPACE), an IP address, or a SPIFFE id.
    DST is a service (NAME.NAMESPACE), a pod (NAMESPACE/NAME) or an IP address, with :PORT where it
    has several. The answer is worked out from the cluster's objects with the functions that the
    proxies use; no traffic is sent.

    With --probe it is sent: the source's tunnel connects from inside the pod as its application
    would, with the request of --method, --path and --header where the port speaks HTTP. Exit status
    1 where that goes another way than was worked out.

    With --dry-run -f policy.yaml nothing is applied: the answer is that with these policies, and
    the connections of the last minutes (live ones and those in access logs) are judged again.
    Exit status 1 where a connection would be refused by them that passes now.
    """
    if trial.dry_run is not bool(trial.files):
        raise UsageError("--dry-run and -f go together", hint="why --dry-run -f policy.yaml")
    if (src is None) is not (dst is None) or (src is None and not trial.dry_run):
        raise UsageError("who calls whom?", hint="ambientctl why SRC DST[:PORT]")
    if trial.probe and trial.dry_run:
        raise UsageError("--probe tries what is applied, --dry-run what is not", hint="give one")
    answer = run(lambda: _answer(cluster, (src, dst), request, trial))
    if output == "text":
        show(answer, trial)
    else:
        dump(_object(answer), output)
    if isinstance(answer.probed, MeshError):
        raise answer.probed
    differs = answer.probed is not None and answer.probed.agrees is False
    if differs or any(not one.after.allowed for one in answer.turned):
        raise SystemExit(1)


async def _answer(
    cluster: Cluster, parties: tuple[str | None, str | None], request: Http, trial: Trial
) -> Answer:
    async with cluster.connect() as kube:
        namespace = cluster.namespace or kube.namespace
        objects = await read_objects(kube)
        items = read_trial(trial.files, namespace)
        seen: list[Seen] = []
        silent: list[str] = []
        if trial.dry_run:
            seen, silent = await observed(kube, trial.since_s)
        mesh = index_mesh(objects)
        named = _named(mesh, parties, namespace)
        found = walk(mesh, *named, request) if named else None
        if named and found is not None and trial.probe:
            return Answer(found, probed=await _probed(kube, mesh, named, request, found))
    if not trial.dry_run:
        return Answer(found)
    for one in doubts(objects, items, datetime.now(UTC)):
        warn(f"[{one.code.id}] ({place(one)}) {one.message}", one.remedy)
    after = index_mesh(overlaid(objects, [item.obj for item in items]))
    differences = tuple(turned(mesh, after, seen))
    named = _named(after, parties, namespace)
    again = walk(after, *named, request) if named else None
    return Answer(found, again, len(seen), differences, tuple(silent))


def _named(
    mesh: Mesh, parties: tuple[str | None, str | None], namespace: str
) -> tuple[Source, Target] | None:
    src, dst = parties
    if src is None or dst is None:
        return None
    source = read_source(mesh, src, namespace)
    return source, read_target(mesh, dst, source.workload.namespace or namespace)


async def _probed(
    kube: KubeClient, mesh: Mesh, named: tuple[Source, Target], request: Http, found: Walk
) -> Probed | MeshError:
    """The answer is shown also where no connection can be made."""
    try:
        return await probe(kube, mesh, named, request, found)
    except MeshError as error:
        return error


def read_trial(files: Sequence[str], namespace: str) -> list[Item]:
    """Objects of files. Raises MeshError for what cannot be read."""
    items, bad = read_files(files_of(files), namespace)
    if bad:
        raise MeshError(str(bad[0]))
    return items


def read_header(text: str) -> tuple[str, str]:
    """Split ``name:value``; names are lower-case inside the mesh."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"header {text!r} has no colon", hint="--header 'name: value'")
    return name.strip().lower(), value.strip()


def _object(answer: Answer) -> Any:
    made = msgspec.to_builtins(answer.walk) if answer.walk is not None else {}
    if answer.after is not None:
        made["dryRun"] = msgspec.to_builtins(answer.after)
    if isinstance(answer.probed, Probed):
        made["probe"] = msgspec.to_builtins(answer.probed)
    if answer.looked_at or answer.turned:
        made["connections"] = {
            "judged": answer.looked_at,
            "turned": [_turned_object(one) for one in answer.turned],
            "unanswered": list(answer.silent),
        }
    return made


def _turned_object(one: Turned) -> dict[str, Any]:
    return {
        "source": one.seen.source or one.seen.ip,
        "target": one.target,
        "authority": one.seen.authority,
        **({"method": one.seen.method, "path": one.seen.path} if one.seen.method else {}),
        "times": one.seen.times,
        "before": one.before._asdict(),
        "after": one.after._asdict(),
    }


def show(answer: Answer, trial: Trial) -> None:
    """Print the answer for a person."""
    console = Console(highlight=False, soft_wrap=True)
    if answer.walk is not None and answer.after is not None:
        console.print("now:", style="bold", markup=False)
        show_walk(console, answer.walk)
        console.print(f"with {', '.join(trial.files)}:", style="bold", markup=False)
        show_walk(console, answer.after)
    elif answer.walk is not None:
        show_walk(console, answer.walk)
    if isinstance(answer.probed, Probed):
        _show_probed(console, answer.probed)
    if trial.dry_run:
        _show_turned(console, answer, trial)


def _show_probed(console: Console, probed: Probed) -> None:
    console.print(f"probe: {probed.sent}: {told(probed.called)}", markup=False)
    match probed.agrees:
        case True:
            console.print("as worked out", style="green", markup=False)
        case None:
            console.print("which tells nothing: applications may do so, too", markup=False)
        case _:
            text = f"DIFFERS: {probed.difference}"
            console.print(text, style="bold red", markup=False)
            hint = "hint: ambientctl tap shows what proxies say of it; ambientctl check"
            console.print(hint, markup=False)


def _show_turned(console: Console, answer: Answer, trial: Trial) -> None:
    for line in answer.silent:
        warn(f"not asked: {line}", "what it saw is not judged")
    broken = [one for one in answer.turned if not one.after.allowed]
    opened = [one for one in answer.turned if one.after.allowed]
    minutes = f"{trial.since_s / 60:g} minutes"
    console.print(
        f"{answer.looked_at} kinds of connections seen in the last {minutes}: "
        f"{len(broken)} would break, {len(opened)} would begin to work",
        markup=False,
    )
    for title, several, style in (("would break", broken, "red"), ("would pass", opened, "green")):
        for one in several[:SHOWN]:
            by = f" by {one.after.by}" if one.after.by else ""
            text = f"  {title}: {one.seen} ({one.target}, {one.seen.times} times){by}: "
            console.print(text + one.after.reason, style=style, markup=False)
        if len(several) > SHOWN:
            console.print(f"  and {len(several) - SHOWN} more", markup=False)


def show_walk(console: Console, answer: Walk) -> None:
    """Print a walk, hop by hop."""
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
    for one in answer.notes[:SHOWN]:
        console.print(f"note: {one.text}", style="yellow", markup=False)
        if one.remedy:
            console.print(f"      remedy: {one.remedy}", markup=False)
    if answer.allowed and answer.refuse:
        console.print(f"to refuse it: {answer.refuse}", style="dim", markup=False)
