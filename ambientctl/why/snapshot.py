"""The mesh as it is now: read from the Kubernetes API, indexed as the control plane does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

import trio

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.kube.core import resources
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import KubeObject, Resource
from ambient.kube.io.client import KubeClient
from ambient.state.core.mesh import MeshState
from ambientctl.analyze.reading import NETWORK_POLICIES
from ambientctl.why.mesh import Mesh
from ambientctl.why.surroundings import surroundings_of
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.index import Index
from istiod_lite.core.mesh_config import CONFIG_MAP
from ztunnel.core.outbound_policy import OutboundPolicyError, registry_only

READ: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.SERVICE_ACCOUNTS,
    resources.GATEWAY_CLASSES,
    resources.GATEWAYS,
    resources.REFERENCE_GRANTS,
    *resources.BACKEND_POLICIES,
    resources.AUTHORIZATION_POLICIES,
    resources.PEER_AUTHENTICATIONS,
    resources.REQUEST_AUTHENTICATIONS,
    resources.VIRTUAL_SERVICES,
    resources.DESTINATION_RULES,
    *resources.ROUTES,
    resources.SERVICE_ENTRIES,
    resources.WORKLOAD_ENTRIES,
    resources.SERVICES,
    resources.ENDPOINT_SLICES,
    resources.PODS,
    NETWORK_POLICIES,
)
OPTIONAL: Final = frozenset({NETWORK_POLICIES})
"""Without these the answer is the mesh's alone: not everybody may read them."""


async def read_objects(kube: KubeClient) -> dict[str, list[KubeObject]]:
    """Everything that a verdict can depend on, by kind."""
    found: dict[str, list[KubeObject]] = {}

    async def read(resource: Resource) -> None:
        try:
            found[resource.kind] = await kube.list(resource)
        except KubeError as error:
            known = error.status not in (401, 403) or resource not in OPTIONAL
            if known and not isinstance(error, NotFound):
                raise
            found[resource.kind] = []  # a cluster without that kind has no objects of it

    async def read_mesh_config() -> None:
        try:
            system = MeshFacts().root_namespace
            config = await kube.get(resources.CONFIG_MAPS, CONFIG_MAP, system)
            found["MeshConfig"] = [config]
        except NotFound:
            return  # a mesh need not have one

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_mesh_config)
        for resource in READ:
            nursery.start_soon(read, resource)
    return found


def overlaid(
    found: Mapping[str, list[KubeObject]], written: Iterable[KubeObject]
) -> dict[str, list[KubeObject]]:
    """The cluster as it would be with these objects applied."""
    made = {kind: list(several) for kind, several in found.items()}
    for obj in written:
        kind, key = str(obj["kind"]), _key(obj)
        kept = [one for one in made.get(kind, []) if _key(one) != key]
        made[kind] = [*kept, obj]
    return made


def _key(obj: KubeObject) -> tuple[str, str]:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def index_mesh(found: Mapping[str, Iterable[KubeObject]]) -> Mesh:
    """Objects by kind, as the proxies would be told about them."""
    index = Index()
    index.load(found)
    return mesh_of(index)._replace(around=surroundings_of(found, index.world))


def mesh_of(index: Index) -> Mesh:
    """What an index tells the proxies."""
    state = MeshState()
    state.apply(ADDRESS_TYPE, index.services)
    state.apply(ADDRESS_TYPE, index.workloads)
    state.apply(AUTHORIZATION_TYPE, index.authorizations)
    for config in index.inputs.configs.values():
        if config.kind == "MeshConfig":
            with suppress(OutboundPolicyError):  # a tunnel goes on with what held before
                state.registry_only = registry_only(config.object.get("spec"))
    return Mesh(state, tuple(index.inputs.configs.values()))
