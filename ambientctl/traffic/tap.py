"""``ambientctl tap``: connections and requests as they end, one line each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click
import trio
from rich.console import Console

from ambient.api.errors import MeshError
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.access_log import REQUEST, Access, read_line
from ambientctl.cluster import Cluster, cluster_options, known_namespace
from ambientctl.console import run
from ambientctl.logs import read_lines
from ambientctl.options import grouped, seconds
from ambientctl.printing import output_option, warn
from ambientctl.reach import proxy_pods


class Filter(NamedTuple):
    """What is shown; empty shows all."""

    source: str
    destination: str
    method: str
    path: str
    status: str
    failed: bool

    def has(self, access: Access) -> bool:
        """Names are parts of what the line says; the path and the status are regular
        expressions for the beginning.
        """
        source, destination = ends(access)
        whence = " ".join((source, *map(access.text, SOURCES)))
        where = " ".join((destination, *map(access.text, DESTINATIONS)))
        if self.source not in whence or self.destination not in where:
            return False
        if self.failed and not access.failed:
            return False
        if self.method and access.text("method") != self.method.upper():
            return False
        return all(
            re.match(wanted, access.text(name)) is not None
            for name, wanted in (("path", self.path), ("response_code", self.status))
            if wanted
        )


SOURCES = ("src.workload", "src.namespace", "src.identity", "src.addr", "downstream_identity",
           "downstream_remote_address")  # fmt: skip
DESTINATIONS = ("dst.workload", "dst.namespace", "dst.service", "dst.identity", "dst.addr",
                "authority", "upstream_cluster", "upstream_host")  # fmt: skip


def ends(access: Access) -> tuple[str, str]:
    """Of a connection as it is printed: ``namespace/name``, else the address."""
    text = access.text
    return (
        f"{text('src.namespace')}/{text('src.workload')}".strip("/") or text("src.addr"),
        f"{text('dst.namespace')}/{text('dst.workload')}".strip("/") or text("dst.addr"),
    )


def _pattern(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r}: {error}") from error
    return value


filter_options = grouped(
    "wanted",
    Filter,
    click.option("--from", "source", default="", help="Part of the source's name or identity."),
    click.option("--to", "destination", default="", help="Part of the destination's."),
    click.option("--method", default="", help="HTTP method."),
    click.option("--path", default="", callback=_pattern, help="Beginning of the path."),
    click.option("--status", default="", callback=_pattern, help="Status, such as 5.."),
    click.option("--failed", is_flag=True, help="Refusals and errors only."),
)


@click.command("tap")
@filter_options
@click.option("--since", default="1s", callback=seconds, show_default=True, help="Also earlier.")
@click.option("--no-follow", is_flag=True, help="End with what was logged up to now.")
@click.option("--max", "most", default=0, type=click.IntRange(0), help="End after so many.")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="As without -n.")
@output_option("text", "json")
@cluster_options
def command(cluster: Cluster, wanted: Filter, output: str, **how: Any) -> None:
    """Print connections and requests of the mesh as they end; with -n, of a namespace.

    One line for each: a connection where its destination's tunnel tells of it (where there is
    none, the source's), a request where its waypoint does.
    """
    console = Console(highlight=False, soft_wrap=True)
    namespace = "" if how["everywhere"] else cluster.namespace or ""

    def show(access: Access) -> bool:
        if not wanted.has(access) or not concerns(access, namespace):
            return False
        if output == "json":
            made = {"event": access.event, "time": access.time, **access.fields}
            print(json.dumps(made), flush=True)
        else:
            style = "red" if access.failed else ""
            console.print(line_of(access), style=style, markup=False)
        return True

    async def task() -> None:
        async with cluster.connect() as kube:
            if namespace:
                await known_namespace(kube, namespace)
            follow = not how["no_follow"]
            await _watch(kube, show, how["most"], follow=follow, since_s=how["since"])

    run(task)


async def _watch(
    kube: KubeClient, show: Callable[[Access], bool], most: int, *, follow: bool, since_s: int
) -> None:
    """All flows of all proxies, in the order in which they are told."""
    pods = await proxy_pods(kube)
    shown = 0
    async with trio.open_nursery() as nursery:

        def take(line: str) -> None:
            nonlocal shown
            access = read_line(line)
            if access is None or not is_the_one(access) or (most and shown >= most):
                return
            shown += show(access)
            if most and shown >= most:
                nursery.cancel_scope.cancel(reason="enough")

        async def read(pod: KubeObject) -> None:
            since = since_s
            while True:
                try:
                    await read_lines(kube, pod, take, since_s=since, follow=follow)
                except MeshError as error:
                    warn(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}: {error}")
                    return
                if not follow or not await _runs(kube, pod):
                    return
                since = AGAIN_S

        for pod in pods:
            nursery.start_soon(read, pod)


AGAIN_S = 1
"""From how long ago a log is read again whose stream has ended."""


async def _runs(kube: KubeClient, pod: KubeObject) -> bool:
    """Whether a log whose stream ended goes on; asked once a second at most."""
    await trio.sleep(AGAIN_S)
    metadata = pod["metadata"]
    fields = f"metadata.name={metadata['name']},status.phase=Running"
    return bool(await kube.list(PODS, metadata["namespace"], "", fields))


def is_the_one(access: Access) -> bool:
    """Of the two lines of a tunnelled connection the destination's; a failed one also the
    source's, since it may never have arrived.
    """
    if access.event == REQUEST or access.text("direction") == "inbound":
        return True
    return not access.text("dst.hbone_addr") or access.failed


def concerns(access: Access, namespace: str) -> bool:
    """Whether one of its ends is in a namespace."""
    if not namespace:
        return True
    ends = (access.text("src.namespace"), access.text("dst.namespace"))
    marks = (access.text("downstream_identity"), access.text("upstream_identity"))
    return namespace in ends or any(f"/ns/{namespace}/" in mark for mark in marks)


def line_of(access: Access) -> str:
    """For people."""
    return " ".join(_parts(access))


def _parts(access: Access) -> Iterator[str]:
    text = access.text
    yield text("time") or access.time[11:23]
    if access.event == REQUEST:
        yield f"req {text('downstream_identity') or text('downstream_remote_address')}"
        yield f"-> {text('authority')}{text('path')} {text('method')}"
        yield f"status={text('response_code')} duration={text('duration')}ms"
        yield f"flags={text('response_flags') or '-'}"
        if text("upstream_host"):
            yield f"by={text('upstream_host')}"
        if text("policy"):
            yield f"policy={text('policy')}"
        return
    source, destination = ends(access)
    yield f"con {source} -> {destination}"
    if text("dst.service"):
        yield f"service={text('dst.service')}"
    secure = text("src.identity") or (text("dst.hbone_addr") and text("dst.identity"))
    yield f"tls={'true' if secure else 'false'}"
    if text("duration"):
        yield f"duration={text('duration')} out={text('bytes_sent')} in={text('bytes_recv')}"
    if text("error"):
        yield f"error={text('error')!r}"
