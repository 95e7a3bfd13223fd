"""What a control plane makes while it runs, which no manifest names: it goes with the last one."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import CONFIG_MAPS, LEASES, SECRETS, Resource
from ambient.kube.io.client import KubeClient
from istiod_lite.core.root_secret import SECRET_NAME
from istiod_lite.io.root_certs import CRL, ROOTS

PUBLISHED: Final = "istio.io/config=true"
"""Label of the ConfigMaps with root certificates, one in each namespace."""
LEASE_PREFIX: Final = "istiod-lite-writer"
"""Of the names of leases that replicas hold (istiod_lite/settings.py)."""
Left = tuple[Resource, str, str]


async def leavings(kube: KubeClient, system: str, *, purge: bool) -> list[Left]:
    """Resource, namespace and name. The authority's key is among them only for ``purge``:
    workloads that were issued certificates under it may come back.
    """
    found: list[Left] = []
    for one in await kube.list(CONFIG_MAPS, None, PUBLISHED):
        namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
        if name in (ROOTS.config_map, CRL.config_map):
            found.append((CONFIG_MAPS, namespace, name))
    for one in await kube.list(LEASES, system):
        name = one["metadata"]["name"]
        if name.startswith(LEASE_PREFIX):
            found.append((LEASES, system, name))
    if purge:
        with suppress(NotFound):
            await kube.get(SECRETS, SECRET_NAME, system)
            found.append((SECRETS, system, SECRET_NAME))
    return found


async def sweep(kube: KubeClient, found: list[Left]) -> int:
    """Delete them; how many there were."""
    number = 0
    for resource, namespace, name in found:
        with suppress(NotFound):
            await kube.delete(resource, name, namespace)
            number += 1
    return number
