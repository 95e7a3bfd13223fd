"""What an installation applies, in which order, and how it is recognised afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ambient.api.errors import MeshError
from ambientctl.manifests import bundle
from ambientctl.manifests.template import DEFAULT_REVISION, REVISION
from ambientctl.manifests.values import joined, lookup, parse_set

Manifest = dict[str, Any]
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "ambientctl"
REVISION_LABEL: Final = "install.ambient-mesh.io/revision"
WORKLOADS: Final = ("Deployment", "DaemonSet")
COMPONENTS: Final = {
    "istiod": "control plane",
    "istio-cni-node": "node agent",
    "ztunnel": "ztunnel",
}
"""Names of workloads (a revision is appended to the first), and what people call them."""


class Wish(NamedTuple):
    """What the caller asks for."""

    profiles: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    revision: str = ""
    namespace: str = "istio-system"


class Plan(NamedTuple):
    """Definitions, then the rest, in the order in which they are applied."""

    revision: str
    version: str
    definitions: list[Manifest]
    objects: list[Manifest]

    @property
    def all(self) -> list[Manifest]:
        """Everything."""
        return [*self.definitions, *self.objects]

    @property
    def workloads(self) -> list[Manifest]:
        """What has to become ready."""
        return [one for one in self.objects if one["kind"] in WORKLOADS]


def chosen_values(wish: Wish) -> dict[str, Any]:
    """Of files, ``--set`` and ``--revision``, without defaults. Raises MeshError."""
    values: dict[str, Any] = {}
    for one in (*map(_read, wish.files), *map(parse_set, wish.sets)):
        values = joined(values, one)
    return joined(values, {REVISION: wish.revision}) if wish.revision else values


def planned(
    profiles: Iterable[str], chosen: Mapping[str, Any], namespace: str, record: Manifest
) -> Plan:
    """The defaults, with profiles and values over them; ``record`` is applied with the rest.

    Raises MeshError for a profile or value that there is not.
    """
    values = bundle.choose([*map(bundle.profile, profiles), chosen])
    revision = str(lookup(values, REVISION))
    wanted = [*bundle.objects(values, namespace), record]
    objects = [_marked(one, revision) for one in wanted]
    definitions = [_marked(one, DEFAULT_REVISION) for one in bundle.definitions()]
    return Plan(revision, version_of(objects), definitions, objects)


def _read(path: str) -> Mapping[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise MeshError(f"{path}: {told}", hint="give a YAML file with values") from error
    if not isinstance(loaded, dict):
        raise MeshError(f"{path} holds no mapping", hint="for example istiod: {replicas: 3}")
    if loaded.get("kind") == "IstioOperator":
        raise MeshError(
            f"{path} is an IstioOperator; this installer takes its own values",
            hint="--profile and --set, or a file of values: docs/install.md",
        )
    return loaded


def _marked(obj: Manifest, revision: str) -> Manifest:
    metadata = obj.get("metadata") or {}
    labels = {**(metadata.get("labels") or {}), MANAGED_BY: MANAGER, REVISION_LABEL: revision}
    return {**obj, "metadata": {**metadata, "labels": labels}}


def version_of(objects: Iterable[Mapping[str, Any]]) -> str:
    """The tag of the images; empty where they have none."""
    for one in objects:
        if one["kind"] in WORKLOADS:
            image = str(one["spec"]["template"]["spec"]["containers"][0].get("image", ""))
            name = image.rpartition("/")[2].partition("@")[0]
            return name.partition(":")[2]
    return ""


def superfluous(present: Sequence[Manifest], plan: Plan) -> list[Manifest]:
    """What an earlier version of the same revision made and this one does not want."""
    wanted = {identity(one) for one in plan.all}
    return [
        one
        for one in present
        if identity(one) not in wanted
        and one["kind"] not in ("Namespace", "CustomResourceDefinition")
        and (one["metadata"].get("labels") or {}).get(REVISION_LABEL) == plan.revision
    ]


def identity(obj: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


def named(obj: Mapping[str, Any]) -> str:
    """For messages."""
    kind, namespace, name = identity(obj)
    return f"{kind} {f'{namespace}/' if namespace else ''}{name}"


def waiting_for(obj: Mapping[str, Any]) -> str:
    """Why a Deployment or DaemonSet is not done yet, in one phrase; empty when it is."""
    status: Mapping[str, Any] = obj.get("status") or {}
    generation = int(obj["metadata"].get("generation") or 0)
    if int(status.get("observedGeneration") or 0) < generation:
        return "not looked at yet"
    if obj["kind"] == "DaemonSet":
        wanted = int(status.get("desiredNumberScheduled") or 0)
        updated = int(status.get("updatedNumberScheduled") or 0)
        ready = int(status.get("numberAvailable") or status.get("numberReady") or 0)
    else:
        wanted = int((obj.get("spec") or {}).get("replicas") or 0)
        updated = int(status.get("updatedReplicas") or 0)
        ready = int(status.get("availableReplicas") or status.get("readyReplicas") or 0)
    if wanted == 0 and obj["kind"] == "DaemonSet":
        return "wanted on no node"
    if updated < wanted:
        return f"{updated} of {wanted} updated"
    return f"{ready} of {wanted} ready" if ready < wanted else ""


def component(obj: Mapping[str, Any]) -> str:
    """What people call a workload."""
    name = str(obj["metadata"]["name"])
    for prefix, words in COMPONENTS.items():
        if name == prefix or (prefix == "istiod" and name.startswith("istiod-")):
            return words
    return name
