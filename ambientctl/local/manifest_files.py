"""The manifests of the mesh and of the samples, read from the project's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from ambient.api.errors import MeshError
from ambientctl.local.layout import BPF_FS, MANIFESTS

NODE_AGENT: Final = "istio-cni-node"
KUSTOMIZATION: Final = "kustomization.yaml"


_FIRST: Final = ("Namespace", "CustomResourceDefinition")
_LAST: Final = ("Deployment", "DaemonSet")


def cluster_manifests() -> list[dict[str, Any]]:
    """What a cluster without a mesh has: its names."""
    return read(MANIFESTS / "local" / "kube-system.yaml")


def mesh_manifests(redirection: str = "nftables") -> list[dict[str, Any]]:
    """Namespaces and definitions first, programs last: roles, accounts and the webhook, which are
    those of a cluster, are there before anybody needs them. ``redirection`` is the node agents'
    setting. Raises MeshError that names an unreadable file.
    """
    files = [
        *sorted((MANIFESTS / "crds").glob("*.yaml")),
        MANIFESTS / "base" / "rbac.yaml",
        MANIFESTS / "base" / "webhook.yaml",
        *sorted((MANIFESTS / "local").glob("*.yaml")),
    ]
    found = [document for path in files for document in read(path)]
    if redirection != "nftables":
        for one in found:
            if one["kind"] == "DaemonSet":
                _redirect_by(redirection, one)
    return sorted(found, key=lambda one: (one["kind"] in _LAST) - (one["kind"] in _FIRST))


def _redirect_by(redirection: str, program: dict[str, Any]) -> None:
    """ztunnel and the node agent share a BPF file system, and the agent knows what it is for."""
    pod = program["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if program["metadata"]["name"] == NODE_AGENT:
        container["env"].append({"name": "REDIRECTION_BACKEND", "value": redirection})
    container["volumeMounts"].append({"name": "bpf-fs", "mountPath": BPF_FS})
    pod["volumes"].append({"name": "bpf-fs", "hostPath": {"path": BPF_FS}})


def sample_names() -> list[str]:
    """The samples that there are."""
    return sorted(path.parent.name for path in (MANIFESTS / "samples").glob(f"*/{KUSTOMIZATION}"))


def sample_manifests(name: str) -> list[dict[str, Any]]:
    """A sample's objects; of kustomize, ``resources`` and ``configMapGenerator`` files."""
    folder = MANIFESTS / "samples" / name
    (kustomization,) = read(folder / KUSTOMIZATION)
    found = [
        document
        for resource in kustomization.get("resources") or []
        for document in read(folder / resource)
    ]
    for generator in kustomization.get("configMapGenerator") or []:
        metadata = {key: generator[key] for key in ("name", "namespace") if key in generator}
        data = {file: (folder / file).read_text() for file in generator.get("files") or []}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    # Pods wait for what they mount: the sooner it is there the better.
    return sorted(found, key=lambda document: document["kind"] == "Deployment")


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of one file. Raises MeshError that names it."""
    try:
        return list(_objects(path))
    except (OSError, yaml.YAMLError) as error:
        raise MeshError(f"manifest {path} cannot be read: {error}") from error


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for document in yaml.load_all(path.read_text(), Loader=loader):
        if document is None:
            continue
        if not isinstance(document, dict) or "kind" not in document:
            raise MeshError(f"manifest {path} holds something that is no object")
        yield document
