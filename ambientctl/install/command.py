"""``ambientctl install`` and ``upgrade``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click
import trio
import yaml

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    KubeObject,
)
from ambient.kube.io.client import KubeClient
from ambientctl.check.command import results_of
from ambientctl.check.facts import gather
from ambientctl.check.result import State
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import INTERRUPTED, run
from ambientctl.global_options import system_option
from ambientctl.install import obstacles, recorded
from ambientctl.install.applying import (
    Kinds,
    apply_all,
    delete_all,
    present,
    until_established,
    until_ready,
)
from ambientctl.install.plan import (
    REVISION_LABEL,
    Plan,
    Wish,
    superfluous,
    version_of,
)
from ambientctl.install.recorded import Recorded
from ambientctl.manifests import bundle
from ambientctl.options import grouped
from ambientctl.printing import warn


class How(NamedTuple):
    """The manner of it."""

    dry_run: bool
    yes: bool
    wait: bool
    limit_s: float
    force: bool


wish_options = grouped(
    "wish",
    lambda profiles, sets, files, revision, system: Wish(profiles, sets, files, revision, system),
    click.option("--profile", "profiles", multiple=True,
                 help=f"One or more of {', '.join(bundle.profiles())}."),
    click.option("-s", "--set", "sets", multiple=True, metavar="NAME=VALUE", help="A value."),
    click.option("-f", "--values", "--filename", "files", multiple=True,
                 help="A YAML file with values."),
    click.option("-r", "--revision", default="", help="A second control plane of this name."),
    system_option,
)  # fmt: skip
how_options = grouped(
    "how",
    How,
    click.option("--dry-run", is_flag=True, help="Print the objects; change nothing."),
    click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask."),
    click.option("--wait/--no-wait", default=True, help="Wait until everything is ready."),
    click.option("--readiness-timeout", "limit_s", default=300.0, show_default=True,
                 help="Seconds to wait."),
    click.option("--force", is_flag=True,
                 help="install: although check --pre finds errors or somebody else's objects are "
                 "there (they are taken over); uninstall: although pods are still captured."),
)  # fmt: skip


@click.command("install")
@wish_options
@how_options
@cluster_options
def install(cluster: Cluster, wish: Wish, how: How) -> None:
    """Install the mesh, or change an installation; what is there already stays as it is.

    An interrupted installation goes on where it ended: run the same command again.
    """
    asked = Recorded().with_wish(wish)
    plan = asked.plan(wish.namespace)
    if how.dry_run:
        _print(plan)
        return

    async def task(kube: KubeClient) -> None:
        kinds = Kinds(kube)
        before = await present(kube, kinds)
        mine = [one for one in before if revision_of(one) == plan.revision]
        await obstacles.look(kube, plan, wish.namespace, before)
        gone = set(recorded.read(mine, plan.revision).lines()) - set(asked.lines())
        if gone:
            warn(f"no longer asked for: {', '.join(sorted(gone))}", "ambientctl upgrade keeps it")
        _tell(plan, mine)
        if not how.force:
            await obstacles.strangers(kube, kinds, plan)
        await _preflight(kube, wish.namespace, how, fresh=not before)
        await _change(kube, plan, mine, how, f"Install {_profile(asked)}")

    _go(cluster, task)


@click.command("upgrade")
@wish_options
@click.option(
    "--reset-values", "reset", is_flag=True, help="Forget the values of the installation."
)
@how_options
@cluster_options
def upgrade(cluster: Cluster, wish: Wish, reset: bool, how: How) -> None:
    """Bring an installation to this version: control plane first, then agents and tunnels.

    The profile and values that it was installed with are kept; those given now are put over them.
    Tunnels are replaced beside their predecessors, which keep the connections that they have.
    """
    asked = Recorded().with_wish(wish)
    revision = asked.plan(wish.namespace).revision  # what there is not, is refused at once

    async def task(kube: KubeClient) -> None:
        before = await present(kube, Kinds(kube))
        mine = [one for one in before if revision_of(one) == revision]
        if not mine:
            raise MeshError(
                f"there is no installation of revision {revision} to upgrade",
                hint="ambientctl install",
            )
        ours_now = Recorded().plan(wish.namespace).version
        kept = Recorded() if reset else recorded.read(mine, revision).upgraded(ours_now)
        whole = kept.with_wish(wish)
        try:
            plan = whole.plan(wish.namespace)
        except MeshError as error:
            raise MeshError(
                f"a value of the installation is no longer there: {error}",
                hint=f"{error.hint}; --reset-values forgets it".removeprefix("; "),
            ) from error
        if how.dry_run:
            _print(plan)
            return
        await obstacles.look(kube, plan, wish.namespace, before)
        same = set(kept.lines()) & set(whole.lines())
        if same:
            print(f"✔ values of the installation are kept: {', '.join(sorted(same))}")
        _tell(plan, mine)
        await _change(kube, plan, mine, how, f"Upgrade {_profile(whole)}")

    _go(cluster, task)


def _print(plan: Plan) -> None:
    print(yaml.safe_dump_all(plan.all, sort_keys=False), end="")


def _profile(asked: Recorded) -> str:
    name = "+".join(asked.profiles) or bundle.DEFAULT_PROFILE
    return f"profile {name!r}"


def _go(cluster: Cluster, task: Callable[[KubeClient], Awaitable[None]]) -> None:
    async def connected() -> None:
        async with cluster.connect() as kube:
            await task(kube)

    try:
        run(connected)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            warn("what was applied stays", "the same command goes on from here")
        raise


def revision_of(obj: KubeObject) -> str:
    """Of an object of an installation; empty for others."""
    return str((obj["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def _tell(plan: Plan, before: Sequence[KubeObject]) -> None:
    """Versions, where they differ (Istio: at most one minor version at a time)."""
    old, new = version_of(before), plan.version
    if not old or old == new:
        return
    print(f"version {old} becomes {new}")
    minors = [text.split(".")[:2] for text in (old, new)]
    if all(len(one) == 2 and all(part.isdecimal() for part in one) for one in minors):
        (major, minor), (new_major, new_minor) = ([int(p) for p in one] for one in minors)
        if major != new_major or abs(new_minor - minor) > 1:
            warn("more than one minor version at a time is not tested", "upgrade step by step")


async def _preflight(kube: KubeClient, system: str, how: How, *, fresh: bool) -> None:
    if not fresh:
        return
    facts = await gather(kube, system, before=True)
    failed = [one for one in results_of(facts, before=True) if one.state is State.ERROR]
    for one in failed:
        warn(f"{one.name}: {one.text}", one.remedy)
    if failed and not how.force:
        raise MeshError(
            f"{len(failed)} checks failed; nothing was changed",
            hint="mend them (ambientctl check --pre), or --force",
        )


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless told not to. Raises UsageError where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question}? Nobody is there to answer", hint="repeat with -y")
    if not click.confirm(f"{question}?", default=False):
        raise click.Abort


async def _change(
    kube: KubeClient, plan: Plan, before: Sequence[KubeObject], how: How, question: str
) -> None:
    confirm(f"{question} into {kube.server}", yes=how.yes)
    kinds = Kinds(kube)
    deadline = trio.current_time() + how.limit_s
    await obstacles.rights(kube, kinds, plan)
    known = await _definitions(kube)
    names = [one["metadata"]["name"] for one in plan.definitions]
    theirs = {name for name in names if name in known and not ours(known[name])}
    mine = [one for one in plan.definitions if one["metadata"]["name"] not in theirs]
    await apply_all(kube, kinds, mine)
    await until_established(kube, names, deadline)
    kinds.forget()
    stay = f", {len(theirs)} of somebody else stay" if theirs else ""
    print(f"✔ definitions ({len(set(names) - set(known))} new{stay})")
    await apply_all(kube, kinds, plan.objects)
    print(f"✔ {len(plan.objects)} objects applied")
    gone = await delete_all(kube, kinds, superfluous(list(before), plan))
    if gone:
        print(f"✔ {gone} objects of the earlier version removed")
    if how.wait:
        await until_ready(kube, kinds, plan.workloads, how.limit_s, print)
        print("✔ the mesh is installed; ambientctl check looks at it")


async def _definitions(kube: KubeClient) -> dict[str, KubeObject]:
    """By name."""
    return {one["metadata"]["name"]: one for one in await kube.list(CUSTOM_RESOURCE_DEFINITIONS)}


def ours(obj: Mapping[str, Any]) -> bool:
    """Whether an installation made it. Definitions of others stay as they are: ours hold only what
    the mesh reads.
    """
    return REVISION_LABEL in (obj["metadata"].get("labels") or {})
