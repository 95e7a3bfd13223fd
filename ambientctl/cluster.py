"""Which cluster a command speaks to: the options that every command has, and the client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import NAMESPACES

if TYPE_CHECKING:
    from ambient.kube.io.client import KubeClient

F = TypeVar("F", bound=Callable[..., Any])


class Cluster(NamedTuple):
    """The caller's choice: None stands for what kubectl would take."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[KubeClient]:
        """Open the cluster's API. Raises UnavailableError with the remedy where it is away."""
        from ambient.kube.io.client import KubeClient  # slow to load, and not always needed

        path = self.kubeconfig or default_kubeconfig()
        async with KubeClient.connect(path, self.context) as kube:
            yield kube


def default_kubeconfig() -> str | None:
    """KUBECONFIG or ``~/.kube/config`` as for kubectl; without both, the local mesh's own."""
    if os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists():
        return None
    from ambientctl.local.mesh import LocalMesh

    mesh = LocalMesh.find("default")
    return str(mesh.kubeconfig) if mesh else None


async def known_namespace(kube: KubeClient, name: str) -> None:
    """Raises MeshError where there is no such namespace."""
    try:
        await kube.get(NAMESPACES, name)
    except NotFound as error:
        raise MeshError(f"there is no namespace {name}", hint="kubectl get namespaces") from error
    except KubeError:
        return  # who may read pods need not be allowed to read namespaces


def cluster_options(command: F) -> F:
    """Give a command ``--kubeconfig``, ``--context`` and ``-n``, passed as one ``cluster``."""

    def with_cluster(
        kubeconfig: str | None, context: str | None, namespace: str | None, **rest: object
    ) -> object:
        return command(cluster=Cluster(kubeconfig, context, namespace), **rest)

    with_cluster.__name__, with_cluster.__doc__ = command.__name__, command.__doc__
    with_cluster.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("-n", "--namespace", help="Namespace (default: the context's, or default)."),
        click.option("--context", help="Context of the kubeconfig."),
        click.option("-c", "--kubeconfig", help="Path of the kubeconfig."),
    ):
        with_cluster = option(with_cluster)
    return with_cluster  # type: ignore[return-value]
