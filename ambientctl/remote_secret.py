"""``ambientctl create-remote-secret``: what another cluster needs to read this one."""

from __future__ import annotations

import base64
from typing import Any, Final

import click
import yaml

from ambient.api.errors import MeshError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import (
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    SERVICE_ENTRIES,
    WORKLOAD_ENTRIES,
    Resource,
)
from ambient.kube.io.client import KubeClient
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.printing import warn
from istiod_lite.io.remote_clusters import WATCHED

READER: Final = "istio-reader-service-account"
ROLES: Final = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False
)
BINDINGS: Final = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding",
    namespaced=False,
)  # fmt: skip
ALSO: Final = (SERVICE_ACCOUNTS, SERVICE_ENTRIES, WORKLOAD_ENTRIES)
"""What Istio's control planes read of another cluster besides what ours does."""
YEAR_S: Final = 365 * 24 * 3600
ROOT_CA: Final = "kube-root-ca.crt"
"""ConfigMap with the API server's certificate authority (Kubernetes, in every namespace)."""


@click.command("create-remote-secret")
@click.option("--name", required=True, help="How the cluster is called (its cluster id).")
@click.option("--server", help="Its API server's URL as other clusters reach it.")
@click.option("--service-account", "account", default=READER, show_default=True)
@click.option("--create-service-account/--no-create-service-account", "create", default=True)
@click.option("--token-duration", "seconds", default=YEAR_S, show_default=True, help="Seconds.")
@system_option
@cluster_options
def command(
    cluster: Cluster, name: str, server: str | None, account: str, create: bool, **rest: Any
) -> None:
    """Print the Secret with which another cluster's control plane may read this cluster.

    Pipe it into the other one: ... | kubectl apply --context OTHER -f -. The token can read what
    a control plane reads, and ends: create the Secret again before that.
    """
    system, seconds = rest["system"], rest["seconds"]

    async def task() -> tuple[dict[str, Any], str]:
        async with cluster.connect() as kube:
            if create:
                await _make_account(kube, account, system)
            url = server or kube.server
            if "127.0.0.1" in url or "localhost" in url:
                warn(f"{url} leads nowhere from another cluster", "name it with --server")
            token, ends = await _token(kube, account, system, seconds)
            ca = await _ca(kube, system)
            return secret_manifest(name, system, kubeconfig(name, url, ca, token)), ends

    secret, ends = run(task)
    warn(f"the token ends at {ends}", "create the Secret again before that")
    print(yaml.safe_dump(secret, sort_keys=False), end="")


async def _make_account(kube: KubeClient, account: str, system: str) -> None:
    groups: dict[str, list[str]] = {}
    for one in (*WATCHED, *ALSO):
        groups.setdefault(one.group, []).append(one.plural)
    rules = [
        {"apiGroups": [group], "resources": names, "verbs": ["get", "list", "watch"]}
        for group, names in groups.items()
    ]
    name = f"istio-reader-clusterrole-{system}"
    subject = {"kind": "ServiceAccount", "name": account, "namespace": system}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    for resource, where, obj in (
        (SERVICE_ACCOUNTS, system, {"metadata": {"name": account, "namespace": system}}),
        (ROLES, None, {"metadata": {"name": name}, "rules": rules}),
        (BINDINGS, None, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}),
    ):
        metadata: Any = obj["metadata"]
        await kube.patch(
            resource, metadata["name"], obj, namespace=where, kind="apply", force=True,
            field_manager="ambientctl",
        )  # fmt: skip


async def _token(kube: KubeClient, account: str, system: str, seconds: int) -> tuple[str, str]:
    body = {
        "metadata": {"name": account, "namespace": system},
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds},
    }
    path = SERVICE_ACCOUNTS.path(system, account, "token")
    try:
        answer = await kube.request("POST", path, body)
    except NotFound as error:
        raise MeshError(
            f"there is no service account {system}/{account}",
            hint="leave --no-create-service-account out",
        ) from error
    status = answer["status"]
    return status["token"], status["expirationTimestamp"]


async def _ca(kube: KubeClient, system: str) -> str:
    try:
        found = await kube.get(CONFIG_MAPS, ROOT_CA, system)
    except NotFound as error:
        raise MeshError(
            f"there is no ConfigMap {system}/{ROOT_CA}",
            hint=f"does namespace {system} exist? Kubernetes writes it into every namespace",
        ) from error
    return str(found["data"]["ca.crt"])


def kubeconfig(name: str, server: str, ca_pem: str, token: str) -> dict[str, Any]:
    """Of one cluster and one account."""
    ca = base64.b64encode(ca_pem.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": ca}}
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def secret_manifest(name: str, system: str, config: dict[str, Any]) -> dict[str, Any]:
    """Istio's form: the label by which it is found, the cluster as the key of its data."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"istio-remote-secret-{name}",
            "namespace": system,
            "labels": {"istio/multiCluster": "true"},
            "annotations": {"networking.istio.io/cluster": name},
        },
        "type": "Opaque",
        "stringData": {name: yaml.safe_dump(config, sort_keys=False)},
    }
