"""``ambientctl tag``: other names for revisions, so that many namespaces can move at once.

A tag is a Service with the labels ``istio.io/tag`` and ``istio.io/rev``
(``istiod_lite/core/revisions.py``), which also leads proxies to that revision.
"""

from __future__ import annotations

import re
from typing import Any, Final

import click
import yaml

from ambient.api.errors import MeshError, UsageError
from ambient.api.ports import WEBHOOK_PORT, XDS_PLAINTEXT_PORT, XDS_PORT
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import NAMESPACES, SERVICES
from ambient.kube.io.client import KubeClient
from ambientctl import completing
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.groups import AliasedGroup
from ambientctl.install.command import confirm
from ambientctl.listing import listing
from ambientctl.printing import dump, names, output_option, table
from istiod_lite.core.revisions import DEFAULT, LABEL, TAG_LABEL, tag_of

_TAG: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,41}[a-z0-9])?")
"""The end of a Service's name, which has 63 characters."""

MANAGER = "ambientctl"


revision_option = click.option(
    "-r", "--revision", required=True, shell_complete=completing.revisions,
    help="The revision that it stands for.",
)  # fmt: skip


@click.group("tag", cls=AliasedGroup)
def command() -> None:
    """Name revisions of the control plane."""


def tag_manifest(tag: str, revision: str, system: str) -> dict[str, Any]:
    """The Service of a tag, which selects the pods of its revision. Raises UsageError for a tag
    that is no part of a name.
    """
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} cannot be a tag", hint="small letters, digits and dashes: prod, 1-2-0"
        )
    ports = [
        {"name": "grpc-xds", "port": XDS_PLAINTEXT_PORT},
        {"name": "https-dns", "port": XDS_PORT},
        {"name": "https-webhook", "port": 443, "targetPort": WEBHOOK_PORT},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(tag),
            "namespace": system,
            "labels": {TAG_LABEL: tag, LABEL: revision},
        },
        "spec": {"selector": {"app": "istiod", LABEL: revision}, "ports": ports},
    }


def service_name(tag: str) -> str:
    """Istio's name for it."""
    return f"istiod-revision-tag-{tag}"


async def tags(kube: KubeClient, system: str) -> dict[str, str]:
    """Tag to revision."""
    found = (tag_of(one) for one in await kube.list(SERVICES, system, TAG_LABEL))
    return dict(sorted(one for one in found if one is not None))


async def _users(kube: KubeClient) -> dict[str, list[str]]:
    """Namespaces by what their label says."""
    found: dict[str, list[str]] = {}
    for one in await kube.list(NAMESPACES, None, LABEL):
        found.setdefault(one["metadata"]["labels"][LABEL], []).append(one["metadata"]["name"])
    return found


@command.command("generate")
@click.argument("name", shell_complete=completing.tags)
@revision_option
@system_option
def generate(name: str, revision: str, system: str) -> None:
    """Print the tag's Service."""
    print(yaml.safe_dump(tag_manifest(name, revision, system), sort_keys=False), end="")


@command.command("set")
@click.argument("name", shell_complete=completing.tags)
@revision_option
@click.option("--overwrite", is_flag=True, help="Although it stands for another one.")
@system_option
@cluster_options
def set_command(cluster: Cluster, name: str, revision: str, overwrite: bool, system: str) -> None:
    """Let a tag stand for a revision."""

    async def task() -> None:
        async with cluster.connect() as kube:
            known = await tags(kube, system)
            present = known.get(name, revision)
            if present != revision and not overwrite:
                raise MeshError(
                    f"tag {name} stands for revision {present}; nothing was changed",
                    hint="repeat with --overwrite to move it",
                )
            await _must_exist(kube, revision, system)
            obj = tag_manifest(name, revision, system)
            await kube.patch(
                SERVICES, service_name(name), obj, namespace=system, kind="apply",
                field_manager=MANAGER, force=True,
            )  # fmt: skip
            users = (await _users(kube)).get(name, [])
            print(f"tag {name} stands for revision {revision}; namespaces: {_joined(users)}")

    run(task)


async def _must_exist(kube: KubeClient, revision: str, system: str) -> None:
    name = "istiod" if revision == DEFAULT else f"istiod-{revision}"
    try:
        await kube.get(SERVICES, name, system)
    except NotFound as error:
        raise MeshError(
            f"there is no control plane of revision {revision} in {system}",
            hint=f"ambientctl install --revision {revision}",
        ) from error


@command.command("list")
@system_option
@output_option("table", "json", "yaml", "name")
@listing
@cluster_options
def list_command(cluster: Cluster, system: str, output: str) -> None:
    """List tags, their revisions, and the namespaces that use them."""

    async def task() -> list[dict[str, Any]]:
        async with cluster.connect() as kube:
            users = await _users(kube)
            known = await tags(kube, system)
            return [
                {"tag": tag, "revision": revision, "namespaces": users.get(tag, [])}
                for tag, revision in known.items()
            ]

    found = run(task)
    if output == "name":
        names(f"service/{service_name(one['tag'])}" for one in found)
    elif output != "table":
        dump(found, output)
    elif not found:
        print("No revision tags found.")
    else:
        rows = [[one["tag"], one["revision"], _joined(one["namespaces"])] for one in found]
        table(["TAG", "REVISION", "NAMESPACES"], rows)


@command.command("remove")
@click.argument("name", shell_complete=completing.tags)
@click.option("-y", "--skip-confirmation", "yes", is_flag=True, help="Do not ask.")
@system_option
@cluster_options
def remove(cluster: Cluster, name: str, yes: bool, system: str) -> None:
    """Remove a tag; asks where namespaces still use it."""

    async def task() -> None:
        async with cluster.connect() as kube:
            if name not in await tags(kube, system):
                raise MeshError(f"there is no tag {name}", hint="ambientctl tag list")
            users = (await _users(kube)).get(name, [])
            if users:
                question = f"Namespaces {_joined(users)} would have no control plane. Remove"
                confirm(question, yes=yes)
            await kube.delete(SERVICES, service_name(name), system)
            print(f"tag {name} removed")

    run(task)


def _joined(names: list[str]) -> str:
    return ", ".join(sorted(names)) or "-"
