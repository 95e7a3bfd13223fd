"""The mesh as it is now: read from the Kubernetes API, indexed as the control plane does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import trio

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.kube.core import resources
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import KubeObject, Resource
from ambient.kube.io.client import KubeClient
from ambient.state.core.mesh import MeshState
from ambientctl.why.mesh import Mesh
from istiod_lite.core.index import Index

READ: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.SERVICE_ACCOUNTS,
    resources.GATEWAYS,
    resources.AUTHORIZATION_POLICIES,
    resources.PEER_AUTHENTICATIONS,
    resources.VIRTUAL_SERVICES,
    resources.DESTINATION_RULES,
    resources.HTTP_ROUTES,
    resources.SERVICES,
    resources.ENDPOINT_SLICES,
    resources.PODS,
)


async def read_mesh(kube: KubeClient) -> Mesh:
    """List everything that a verdict can depend on, and index it."""
    found: dict[str, list[KubeObject]] = {}

    async def read(resource: Resource) -> None:
        try:
            found[resource.kind] = await kube.list(resource)
        except NotFound:
            found[resource.kind] = []  # a cluster without that kind has no objects of it

    async with trio.open_nursery() as nursery:
        for resource in READ:
            nursery.start_soon(read, resource)
    return index_mesh(found)


def index_mesh(found: Mapping[str, Iterable[KubeObject]]) -> Mesh:
    """Objects by kind, as the proxies would be told about them."""
    index = Index()
    index.load(found)
    state = MeshState()
    state.apply(ADDRESS_TYPE, index.services)
    state.apply(ADDRESS_TYPE, index.workloads)
    state.apply(AUTHORIZATION_TYPE, index.authorizations)
    return Mesh(state, tuple(index.inputs.configs.values()))
