"""Which cluster a command speaks to: the options that every command has, and the client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ambient.api.errors import MeshError, UsageError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import NAMESPACES
from ambientctl import completing
from ambientctl.global_options import kept
from ambientctl.pod_names import near

if TYPE_CHECKING:
    from ambient.kube.io.client import KubeClient

F = TypeVar("F", bound=Callable[..., Any])


class Cluster(NamedTuple):
    """The caller's choice: None stands for what kubectl would take."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    speaks_for: tuple[tuple[str, str], ...] = ()
    """Headers of ``--as``, ``--as-group`` and ``--as-uid``."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[KubeClient]:
        """Open the cluster's API. Raises UnavailableError with the remedy where it is away."""
        from ambient.kube.io.client import KubeClient  # slow to load, and not always needed

        path = self.kubeconfig or default_kubeconfig()
        async with KubeClient.connect(path, self.context, [*self.speaks_for]) as kube:
            yield kube


def default_kubeconfig() -> str | None:
    """KUBECONFIG or ``~/.kube/config`` as for kubectl; without both, the local mesh's own.

    None where the client finds it by itself. Raises UsageError where there is nothing at all.
    """
    named = os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST")
    if named or (Path.home() / ".kube" / "config").exists():
        return None
    from ambientctl.local.mesh import LocalMesh

    mesh = LocalMesh.find("default")
    if mesh is None:
        raise UsageError(
            "there is no ~/.kube/config, and no local mesh",
            hint="ambientctl local up, or name a kubeconfig with --kubeconfig or KUBECONFIG",
        )
    return str(mesh.kubeconfig)


async def known_namespace(kube: KubeClient, name: str) -> None:
    """Raises MeshError where there is no such namespace."""
    try:
        await kube.get(NAMESPACES, name)
    except NotFound as error:
        known = [one["metadata"]["name"] for one in await kube.list(NAMESPACES)]
        hint = near(name, known, "there are")
        raise MeshError(f"there is no namespace {name}", hint=hint) from error
    except KubeError:
        return  # who may read pods need not be allowed to read namespaces


def cluster_options(command: F) -> F:
    """Give a command ``--kubeconfig``, ``--context``, ``-n`` and ``--as``, passed as one
    ``cluster``; what it is not given may stand before it.
    """

    def with_cluster(
        kubeconfig: str | None, context: str | None, namespace: str | None, **rest: Any
    ) -> object:
        given = {name: rest.pop(name) or kept(name) for name in ("as_user", "as_groups", "as_uid")}
        cluster = Cluster(
            kubeconfig or kept("kubeconfig"),
            context or kept("context"),
            namespace or kept("namespace"),
            _speaking_for(given["as_user"], given["as_groups"] or (), given["as_uid"]),
        )
        return command(cluster=cluster, **rest)

    with_cluster.__name__, with_cluster.__doc__ = command.__name__, command.__doc__
    with_cluster.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("--as-uid", help="UID of the user of --as."),
        click.option("--as-group", "as_groups", multiple=True, help="Group of it; several."),
        click.option("--as", "as_user", help="User to speak for (impersonation)."),
        click.option("-n", "--namespace", shell_complete=completing.namespaces,
                     help="Namespace (default: the context's, or default)."),
        click.option("--context", shell_complete=completing.contexts,
                     help="Context of the kubeconfig."),
        click.option("-c", "--kubeconfig", shell_complete=completing.files,
                     help="Path of the kubeconfig."),
    ):  # fmt: skip
        with_cluster = option(with_cluster)
    return with_cluster  # type: ignore[return-value]


def _speaking_for(
    user: str | None, groups: tuple[str, ...], uid: str | None
) -> tuple[tuple[str, str], ...]:
    """As kubectl says it. Raises UsageError for a group or a UID of nobody."""
    if not user:
        if groups or uid:
            raise UsageError("--as-group and --as-uid need a user", hint="name it with --as")
        return ()
    return (
        ("Impersonate-User", user),
        *(("Impersonate-Group", group) for group in groups),
        *([("Impersonate-Uid", uid)] if uid else []),
    )
