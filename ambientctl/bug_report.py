"""``ambientctl bug-report``: one archive with what somebody needs who was not there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import trio
import yaml

from ambient.api.errors import MeshError, UsageError
from ambient.api.ports import ADMIN_PORT, CONTROL_HTTP_PORT
from ambient.kube.core.resources import EVENTS, KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.analyze.output import as_object
from ambientctl.analyze.reading import Reading, read_cluster
from ambientctl.analyze.waypoint_problems import ANALYZERS
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.logs import read_lines
from ambientctl.options import seconds
from ambientctl.reach import ask, port_of, running_pods
from ambientctl.redaction import redact_object, redact_text
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.facts import MeshFacts

PAGES: Final = {
    "app=istiod": (CONTROL_HTTP_PORT, ("syncz", "configz", "index", "adsz", "connections")),
    "app=ztunnel": (ADMIN_PORT, ("/config_dump", "/connections")),
    "k8s-app=istio-cni-node": (8000, ("/status", "/readyz")),
    "gateway.networking.k8s.io/gateway-name": (ADMIN_PORT, ("/config_dump",)),
}
"""Label of the pods to the port and pages of each."""
MAX_LOG_BYTES: Final = 20 * 1024 * 1024
AT_ONCE: Final = 16


class Archive:
    """Files by name; everything is redacted on its way in."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.failures: list[str] = []

    def put(self, name: str, text: str) -> None:
        """Add a file."""
        self.files[name] = redact_text(text)

    async def attempt(self, name: str, read: Callable[[], Awaitable[str]]) -> None:
        """Add what can be had; what cannot is noted."""
        try:
            self.put(name, await read())
        except MeshError as error:
            self.failures.append(f"{name}: {error}")

    def write(self, path: Path) -> None:
        """Write the archive, readable by its owner only. Raises UsageError."""
        root = path.name.partition(".")[0]
        self.files["failures.txt"] = "\n".join(self.failures) + "\n"
        try:
            path.touch(mode=0o600, exist_ok=True)
            with tarfile.open(path, "w:gz") as archive:
                for name, text in sorted(self.files.items()):
                    data = text.encode()
                    info = tarfile.TarInfo(f"{root}/{name}")
                    info.size, info.mode = len(data), 0o600
                    info.mtime = int(datetime.now(UTC).timestamp())
                    archive.addfile(info, io.BytesIO(data))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", hint="--output-file") from error


@click.command("bug-report")
@click.option("-f", "--output-file", "path", default="bug-report.tar.gz", show_default=True)
@click.option("--since", default="1h", callback=seconds, show_default=True, help="Of the logs.")
@click.option("--dry-run", is_flag=True, help="Name the files; write none.")
@system_option
@cluster_options
def command(cluster: Cluster, path: str, since: int, dry_run: bool, system: str) -> None:
    """Gather objects, events, states, logs and findings into one archive.

    Secrets are redacted: of a Secret the names and sizes of its entries stay; private keys, tokens
    and passwords in logs and objects are replaced. Look through it before you send it.
    """

    async def task() -> Archive:
        archive = Archive()
        async with cluster.connect() as kube:
            await gather(kube, archive, system, since)
        return archive

    archive = run(task)
    if dry_run:
        print("\n".join(sorted(archive.files)))
        return
    archive.write(Path(path))
    print(f"{path}: {len(archive.files)} files, {len(archive.failures)} could not be had")


async def gather(kube: KubeClient, archive: Archive, system: str, since_s: int) -> None:
    """Everything. Raises UnavailableError where the API server is away."""
    reading = await read_cluster(kube, system)
    by_kind: dict[str, list[KubeObject]] = {}
    for item in reading.items:
        by_kind.setdefault(item.ref.kind, []).append(redact_object(item.obj))
    for kind, objects in by_kind.items():
        archive.put(f"objects/{kind}.yaml", yaml.safe_dump_all(objects, sort_keys=False))
    archive.failures += reading.refused
    archive.put("analyze.json", _findings(reading, system))
    archive.put("version.txt", f"ambientctl {version('ambient-mesh')}\nserver {kube.server}\n")
    await archive.attempt("events.yaml", lambda: _events(kube))
    limit = trio.CapacityLimiter(AT_ONCE)
    async with trio.open_nursery() as nursery:
        for selector, (port, pages) in PAGES.items():
            for pod in await running_pods(kube, None, selector):
                for page in pages:
                    target = page if page.startswith("/") else f"/debug/{page}"
                    nursery.start_soon(_page, kube, archive, limit, (pod, port, target))
                nursery.start_soon(_log, kube, archive, limit, (pod, since_s))


def _findings(reading: Reading, system: str) -> str:
    facts = MeshFacts(root_namespace=system)
    corpus = Corpus(reading.items, now=datetime.now(UTC), facts=facts, listed=reading.listed)
    return json.dumps([as_object(one) for one in analyze(corpus, analyzers=ANALYZERS)], indent=1)


async def _events(kube: KubeClient) -> str:
    return yaml.safe_dump_all(await kube.list(EVENTS), sort_keys=False)


async def _page(
    kube: KubeClient,
    archive: Archive,
    limit: trio.CapacityLimiter,
    what: tuple[KubeObject, int, str],
) -> None:
    pod, port, target = what
    at = port_of(pod, port)
    name = f"{at.namespace}/{at.pod}/{target.rpartition('/')[2]}.json"

    async def read() -> str:
        return (await ask(kube, at, target)).decode(errors="replace")

    async with limit:
        await archive.attempt(name, read)


async def _log(
    kube: KubeClient, archive: Archive, limit: trio.CapacityLimiter, what: tuple[KubeObject, int]
) -> None:
    pod, since_s = what
    at = port_of(pod, 0)

    async def read() -> str:
        kept: list[str] = []
        size = 0

        def take(line: str) -> bool:
            nonlocal size
            size += len(line) + 1
            kept.append(line if size <= MAX_LOG_BYTES else "... the rest is left out")
            return size <= MAX_LOG_BYTES

        await read_lines(kube, pod, take, since_s=since_s)
        return "\n".join(kept) + "\n"

    async with limit:
        await archive.attempt(f"{at.namespace}/{at.pod}/log.txt", read)
