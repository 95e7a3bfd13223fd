"""``ambientctl analyze [FILES]``: what is wrong, or useless, in files and in a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import click

from ambient.api.errors import UsageError
from ambientctl.analyze.output import show
from ambientctl.analyze.reading import Reading, read_cluster
from ambientctl.analyze.waypoint_problems import ANALYZERS
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.object_files import files_of, read_files
from ambientctl.printing import output_option, table, warn
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.analyze import Suppression, analyze
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.facts import MeshFacts

EXIT_BAD_FILE = 65
EXIT_FINDINGS = 79
"""Exit statuses of istioctl."""
LEVELS = tuple(severity.word for severity in Severity)


class Scope(NamedTuple):
    """What to look at, and what to say of it."""

    namespace: str | None
    only: tuple[str, ...]
    suppressed: tuple[Suppression, ...]
    least: Severity


def suppressions(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[Suppression, ...]:
    try:
        return tuple(map(Suppression.parse, values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("analyze")
@click.argument("paths", nargs=-1, metavar="[FILES|-]")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces.")
@click.option("-k/-K", "--use-kube/--no-use-kube", default=True, help="Read the cluster, too.")
@click.option("-R", "--recursive", is_flag=True, help="Go into the folders of folders.")
@system_option
@click.option(
    "--failure-threshold",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="Error",
    show_default=True,
    help="Exit with 79 for findings at this level or above.",
)
@click.option(
    "--output-threshold",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="Info",
    show_default=True,
    help="Leave out what is below.",
)
@click.option(
    "-S", "--suppress", multiple=True, callback=suppressions, metavar="CODE[=KIND NAME.NAMESPACE]",
    help="Leave findings out; wildcards are understood.",
)  # fmt: skip
@click.option("--analyzer", "only", multiple=True, help="Run this one only (--list-analyzers).")
@click.option("--ignore-unknown", is_flag=True, help="Do not complain about files without objects.")
@click.option("-L", "--list-analyzers", "listing", is_flag=True, help="Name the analyzers.")
@click.option("--list-codes", is_flag=True, help="Name the codes, with their meaning.")
@output_option("log", "table", "json", "yaml")
@cluster_options
def command(
    cluster: Cluster,
    paths: tuple[str, ...],
    output: str,
    listing: bool,
    list_codes: bool,
    **how: str,
) -> None:
    """Find mistakes in the mesh's configuration, in files and in the cluster.

    With FILES the answer is what these files bring, as if they were applied to the cluster; with
    --no-use-kube they are looked at by themselves. Exit status: 0 all is well, 65 a file cannot be
    read, 79 there are findings at the failure threshold.
    """
    if listing or list_codes:
        name_what_there_is(listing)
        return
    unknown = sorted(set(how["only"]) - ANALYZERS.keys())
    if unknown:
        raise UsageError(f"no analyzer {unknown[0]!r}", hint="ambientctl analyze --list-analyzers")
    sys.exit(_analyze(cluster, paths, output, how))


def _analyze(cluster: Cluster, paths: tuple[str, ...], output: str, how: dict) -> int:  # type: ignore[type-arg]
    files = files_of(paths, recursive=how["recursive"])
    namespace = cluster.namespace
    reading = Reading([], frozenset(), [])
    if how["use_kube"]:

        async def task() -> tuple[Reading, str]:
            async with cluster.connect() as kube:
                return await read_cluster(kube, how["system"]), kube.namespace

        reading, context_namespace = run(task)
        namespace = namespace or context_namespace
        for line in reading.refused:
            warn(f"not read: {line}", "what depends on it is not analyzed")
    elif not files:
        raise UsageError("nothing to analyze", hint="name files, or leave --no-use-kube out")
    items, bad = read_files(files, namespace or "default")
    for one in bad if not how["ignore_unknown"] else ():
        print(f"error: {one}", file=sys.stderr)
    whole = how["everywhere"] or (files and cluster.namespace is None)
    scope = Scope(
        None if whole else namespace,
        how["only"],
        how["suppress"],
        Severity.named(how["output_threshold"]),
    )
    findings = find(reading, items, scope, how["system"])
    show(findings, output)
    where = "all namespaces" if scope.namespace is None else f"namespace {scope.namespace}"
    if not findings and output == "log":
        print(f"✔ no problems found in {where}", file=sys.stderr)
    if bad and not how["ignore_unknown"]:
        return EXIT_BAD_FILE
    threshold = Severity.named(how["failure_threshold"])
    return EXIT_FINDINGS if any(one.severity >= threshold for one in findings) else 0


def find(
    reading: Reading, items: list[Item], scope: Scope, system: str, now: datetime | None = None
) -> list[Finding]:
    """Findings of the cluster; where there are files, those that come with the files."""
    moment = now or datetime.now(UTC)

    def look(objects: Iterable[Item]) -> list[Finding]:
        facts = MeshFacts(root_namespace=system)
        corpus = Corpus(objects, now=moment, facts=facts, listed=reading.listed)
        return analyze(corpus, only=scope.only, suppressed=scope.suppressed, analyzers=ANALYZERS)

    before = set(map(_identity, look(reading.items))) if items and reading.items else set()
    written = {item.ref for item in items}
    return [
        one
        for one in look([*reading.items, *items])
        if one.severity >= scope.least
        and _inside(one, scope.namespace)
        and (one.ref in written or not before or _identity(one) not in before)
    ]


def _identity(finding: Finding) -> tuple[str, object, str]:
    return finding.code.id, finding.ref, finding.message


def _inside(finding: Finding, namespace: str | None) -> bool:
    key = finding.ref.key
    if namespace is None or key.namespace == namespace:
        return True
    # What concerns the whole cluster concerns every namespace; a Namespace only itself.
    return not key.namespace and (finding.ref.kind != "Namespace" or key.name == namespace)


def name_what_there_is(analyzers: bool) -> None:
    """Analyzers, or codes with their meaning."""
    if analyzers:
        for name, analyzer in ANALYZERS.items():
            doc = (analyzer.__doc__ or "").strip().splitlines()[0]
            print(f"{name}: {doc}")
        return
    rows = [
        [code.id, code.severity.word, code.name, code.meaning]
        for code in sorted(codes.ALL.values(), key=lambda one: one.id)
    ]
    table(["CODE", "LEVEL", "NAME", "MEANING"], rows)
