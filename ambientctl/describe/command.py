"""``ambientctl describe pod|service|namespace``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.describe import text
from ambientctl.describe.view import View
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.pod_names import KINDS, place

ALIASES = {"po": "pod", "pods": "pod", "svc": "service", "services": "service", "ns": "namespace"}


class KindGroup(AliasedGroup):
    """Takes kubectl's ``KIND/NAME``, too: ``describe deploy/web``, ``describe svc/api.shop``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        kind, slash, name = args[0].partition("/") if args else ("", "", "")
        word = kind.partition(".")[0].lower()
        if (slash and word in KINDS) or word in ALIASES or word in self.commands:
            word = ALIASES.get(word, word)
            known = word if word in self.commands else "pod"
            args = [known, *([name] if slash else []), *args[1:]]
        return super().resolve_command(ctx, args)


@click.group("describe", cls=KindGroup, aliases=ALIASES)
def command() -> None:
    """Say what the mesh does with a pod, a service or a namespace, and what is wrong there."""


def _show(
    cluster: Cluster, system: str, given: str, told: Callable[[View, str, str], Iterator[str]]
) -> None:
    async def task() -> list[str]:
        async with cluster.connect() as kube:
            where = place(given, cluster.namespace or kube.namespace)
            return list(told(await View.read(kube, system), *where))

    print("\n".join(run(task)))


@command.command()
@click.argument("name", shell_complete=completing.pods)
@system_option
@cluster_options
def pod(cluster: Cluster, name: str, system: str) -> None:
    """Identity, capture, services, mTLS mode, waypoints, policies and problems of a pod.

    Its NAME, or that of its Deployment or app: the first of the pods is described.
    """
    _show(cluster, system, name, text.pod)


@command.command()
@click.argument("name", shell_complete=completing.services)
@system_option
@cluster_options
def service(cluster: Cluster, name: str, system: str) -> None:
    """Ports, protocols, waypoint, endpoints, routes, policies and problems of a service."""
    _show(cluster, system, name, text.service)


@command.command()
@click.argument("name", shell_complete=completing.namespaces)
@system_option
@cluster_options
def namespace(cluster: Cluster, name: str, system: str) -> None:
    """Enrolment, mTLS mode, waypoints and problems of a namespace."""

    async def task() -> list[str]:
        async with cluster.connect() as kube:
            return list(text.namespace(await View.read(kube, system), name))

    print("\n".join(run(task)))
