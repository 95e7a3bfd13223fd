"""All objects of a cluster that the analyzers look at; what may not be read is named."""

from __future__ import annotations

from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.kube.core import resources
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import Resource
from ambient.kube.io.client import KubeClient
from istiod_lite.core.analysis.certificates import AUTHORITIES
from istiod_lite.core.analysis.corpus import Item
from istiod_lite.core.facts import ObjectKey, ObjectRef

NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
VALIDATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
SIDECAR_KINDS: Final = (
    Resource(resources.NETWORKING_GROUP, "v1", "sidecars", "Sidecar"),
    Resource("extensions.istio.io", "v1alpha1", "wasmplugins", "WasmPlugin"),
)
READ: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.PODS,
    resources.SERVICES,
    resources.SERVICE_ACCOUNTS,
    resources.ENDPOINT_SLICES,
    resources.CONFIG_MAPS,
    resources.DEPLOYMENTS,
    resources.DAEMON_SETS,
    resources.CUSTOM_RESOURCE_DEFINITIONS,
    resources.GATEWAY_CLASSES,
    resources.GATEWAYS,
    *resources.ROUTES,
    resources.REFERENCE_GRANTS,
    *resources.BACKEND_POLICIES,
    resources.AUTHORIZATION_POLICIES,
    resources.PEER_AUTHENTICATIONS,
    resources.REQUEST_AUTHENTICATIONS,
    resources.TELEMETRIES,
    resources.ENVOY_FILTERS,
    resources.VIRTUAL_SERVICES,
    resources.DESTINATION_RULES,
    resources.SERVICE_ENTRIES,
    resources.WORKLOAD_ENTRIES,
    resources.WORKLOAD_GROUPS,
    NETWORK_POLICIES,
    VALIDATING_WEBHOOKS,
    *SIDECAR_KINDS,
)


class Reading(NamedTuple):
    """``listed``: kinds of which all objects are here, none for those that the cluster lacks."""

    items: list[Item]
    listed: frozenset[str]
    refused: list[str]
    """What could not be read, one line each."""

    def require(self, kind: str) -> None:
        """Raise MeshError where this kind may not be read: then nobody knows what there is."""
        if kind not in self.listed:
            line = next((one for one in self.refused if f"{kind.lower()}s" in one), kind)
            raise MeshError(
                f"{kind}s may not be read: {line}",
                hint=f"kubectl auth can-i list {kind.lower()}s -A; ask for a role that may",
            )


async def read_cluster(kube: KubeClient, system_namespace: str) -> Reading:
    """Everything at once. Raises UnavailableError where the API server is away, and MeshError
    where nothing at all may be read.
    """
    items: list[Item] = []
    listed: set[str] = set()
    refused: list[str] = []

    async def read(resource: Resource) -> None:
        try:
            found = await kube.list(resource)
        except NotFound:
            found = []  # a kind that the cluster does not know has no objects
        except KubeError as error:
            if error.status not in (401, 403):
                raise
            refused.append(f"{resource.qualified}: {error.message}")
            return
        listed.add(resource.kind)
        for obj in found:
            metadata = obj["metadata"]
            key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
            items.append(Item(ObjectRef(resource.kind, key), obj))

    async def read_secret(name: str) -> None:
        try:
            obj = await kube.get(resources.SECRETS, name, system_namespace)
        except NotFound:
            return
        except KubeError as error:
            if error.status not in (401, 403):
                raise
            refused.append(f"secret {system_namespace}/{name}: {error.message}")
            return
        items.append(Item(ObjectRef("Secret", ObjectKey(system_namespace, name)), obj))

    async with trio.open_nursery() as nursery:
        for resource in READ:
            nursery.start_soon(read, resource)
        for name in AUTHORITIES:
            nursery.start_soon(read_secret, name)
    _require_anything(listed, refused)
    return Reading(items, frozenset(listed), sorted(refused))


def _require_anything(listed: set[str], refused: list[str]) -> None:
    if not listed and refused:
        raise MeshError(
            f"nothing may be read, {len(refused)} kinds were refused; {min(refused)}",
            hint="kubectl auth whoami; use another context, or a token that has not ended",
        )
