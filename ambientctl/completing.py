"""Names out of the cluster, for the completion of a shell.

A shell waits for us at each Tab: whatever is slow, away or refused gives no names and no word.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from ambientctl.global_options import SYSTEM_NAMESPACE, kept

if TYPE_CHECKING:
    from ambient.kube.io.client import KubeClient

LIMIT_S: Final = 1.0
"""For the cluster's answer; ``AMBIENTCTL_COMPLETION_SECONDS`` says another one."""
PATIENCE: Final = "AMBIENTCTL_COMPLETION_SECONDS"
GRACE_S: Final = 0.5
"""After this the process ends, also where a credential plugin would go on."""
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Wanted(NamedTuple):
    """What was typed before: of which namespace, and the word so far."""

    namespace: str
    system: str
    word: str


Reader = Callable[["KubeClient", Wanted], Awaitable[Iterable[str]]]


def completes(read: Reader) -> Complete:
    """The completion of a parameter by what ``read`` finds."""

    def complete(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
        given = ctx.params
        cluster = [given.get(name) or kept_in(ctx, name) for name in ("kubeconfig", "context")]
        namespace = str(given.get("namespace") or kept_in(ctx, "namespace") or "")
        system = str(given.get("system") or kept_in(ctx, "system") or SYSTEM_NAMESPACE)
        found = _in_time(read, cluster, Wanted(namespace, system, word))
        used = given.get(str(param.name)) if param.nargs != 1 else ()
        names = sorted({one for one in found if one.startswith(word)} - set(used or ()))
        return [CompletionItem(name) for name in names]

    return complete


def kept_in(ctx: click.Context, name: str) -> Any:
    """A global option that stands before the command."""
    with ctx.scope(cleanup=False):
        return kept(name)


def _in_time(read: Reader, cluster: list[Any], wanted: Wanted) -> list[str]:
    try:
        limit_s = float(os.environ.get(PATIENCE) or LIMIT_S)
        return _read(read, cluster, wanted, limit_s)
    except BaseException:  # noqa: BLE001 - a shell is no place for errors
        return []


def _read(read: Reader, cluster: list[Any], wanted: Wanted, limit_s: float) -> list[str]:
    import trio  # this and the client are slow to load, and help needs neither

    import_module("ambient.kube.io.client")  # before the time runs
    from ambientctl.cluster import Cluster

    kubeconfig, context = cluster

    async def task() -> list[str]:
        with trio.move_on_after(limit_s):
            async with Cluster(kubeconfig, context, None).connect() as kube:
                there = wanted._replace(namespace=wanted.namespace or kube.namespace)
                return list(await read(kube, there))
        return []

    before = signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
    try:
        return trio.run(task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def _names(kube: KubeClient, resource: str, namespace: str | None, labels: str = "") -> Any:
    from ambient.kube.core import resources

    found = await kube.list(getattr(resources, resource), namespace, labels)
    return [one["metadata"] for one in found]


async def _namespaces(kube: KubeClient, _: Wanted) -> Iterable[str]:
    return [one["name"] for one in await _names(kube, "NAMESPACES", None)]


async def _nodes(kube: KubeClient, _: Wanted) -> Iterable[str]:
    return [one["name"] for one in await _names(kube, "NODES", None)]


async def _pods(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    """``NAME``, ``deploy/NAME``, ``NAMESPACE/NAME`` and ``NAME.NAMESPACE``, as it was begun."""
    from ambientctl.pod_names import KINDS

    where, slash, _ = wanted.word.partition("/")
    if slash and where in KINDS:
        kind = "DEPLOYMENTS" if where.startswith("deploy") else "PODS"
        return [f"{where}/{one['name']}" for one in await _names(kube, kind, wanted.namespace)]
    if slash:
        return [f"{where}/{one['name']}" for one in await _names(kube, "PODS", where)]
    if "." in wanted.word:
        return [f"{one['name']}.{one['namespace']}" for one in await _names(kube, "PODS", None)]
    here = [one["name"] for one in await _names(kube, "PODS", wanted.namespace)]
    deployments = await _names(kube, "DEPLOYMENTS", wanted.namespace)
    return [*here, *(f"deploy/{one['name']}" for one in deployments)]


async def _services(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    everywhere = "." in wanted.word
    found = await _names(kube, "SERVICES", None if everywhere else wanted.namespace)
    return [f"{one['name']}.{one['namespace']}" if everywhere else one["name"] for one in found]


async def _parties(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    return [*await _pods(kube, wanted), *await _services(kube, wanted)]


async def _waypoints(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    from ambientctl.waypoint import waypoints

    everywhere = "." in wanted.word
    found = await waypoints(kube, None if everywhere else wanted.namespace)
    metadata = [one["metadata"] for one in found]
    return [f"{m['name']}.{m['namespace']}" if everywhere else m["name"] for m in metadata]


async def _proxies(kube: KubeClient, _: Wanted) -> Iterable[str]:
    selectors = ("app=ztunnel", "gateway.networking.k8s.io/gateway-name")
    found = [one for labels in selectors for one in await _names(kube, "PODS", None, labels)]
    return [f"{one['name']}.{one['namespace']}" for one in found]


async def _revisions(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    found = await _names(kube, "SERVICES", wanted.system, "app=istiod")
    names = [str(one["name"]) for one in found if "istio.io/tag" not in one["labels"]]
    return [name.removeprefix("istiod").removeprefix("-") or "default" for name in names]


async def _tags(kube: KubeClient, wanted: Wanted) -> Iterable[str]:
    found = await _names(kube, "SERVICES", wanted.system, "istio.io/tag")
    return [str(one["labels"]["istio.io/tag"]) for one in found]


def contexts(ctx: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    """Of the kubeconfig files; no cluster is asked."""
    try:
        from ambient.kube.io.credentials import contexts_of
        from ambientctl.cluster import default_kubeconfig

        path = ctx.params.get("kubeconfig") or kept_in(ctx, "kubeconfig") or default_kubeconfig()
        return [CompletionItem(one) for one in contexts_of(path) if one.startswith(word)]
    except Exception:  # noqa: BLE001 - as above
        return []


def files(_ctx: click.Context, _param: click.Parameter, word: str) -> list[CompletionItem]:
    """Paths, which the shell knows."""
    return [CompletionItem(word, type="file")]


namespaces, nodes, pods, services, parties, waypoints, proxies, revisions, tags = map(
    completes,
    (_namespaces, _nodes, _pods, _services, _parties, _waypoints, _proxies, _revisions, _tags),
)
