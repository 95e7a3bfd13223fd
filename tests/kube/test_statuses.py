"""What the leader writes, as a real API server stores it: schemas, server-side apply, roles."""

import pytest
import trio

from ambient.kube.core.resources import (
    AUTHORIZATION_POLICIES,
    BACKEND_TLS_POLICIES,
    BACKEND_TRAFFIC_POLICIES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    GATEWAYS,
    GRPC_ROUTES,
    HORIZONTAL_POD_AUTOSCALERS,
    HTTP_ROUTES,
    PEER_AUTHENTICATIONS,
    POD_DISRUPTION_BUDGETS,
    REFERENCE_GRANTS,
    SERVICE_ENTRIES,
    SERVICES,
    TCP_ROUTES,
    TLS_ROUTES,
    WORKLOAD_ENTRIES,
    WORKLOAD_GROUPS,
)
from tests.kube.servers import apply
from tests.kube.test_control_plane import control_plane, found, until
from tests.unit.istiod_lite.objects import grant, route, service_entry, workload_entry

# httpx leaves a socket to the garbage collector when a TLS handshake is cancelled.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
USE = {"istio.io/use-waypoint": "wp"}
ON_WEB = {"group": "", "kind": "Service", "name": "web"}
SYSTEM_ROOTS = {"hostname": "web.example.com", "wellKnownCACertificates": "System"}
WRITTEN = (SERVICES, SERVICE_ENTRIES, WORKLOAD_ENTRIES, AUTHORIZATION_POLICIES, HTTP_ROUTES,
           PEER_AUTHENTICATIONS, GATEWAYS)  # fmt: skip


def spec(name, **fields):
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": fields}


async def objects_of_every_kind(kube):
    ports = [{"name": "http", "port": 80}]
    web = spec("web", selector={"app": "web"}, ports=ports)
    web["metadata"]["labels"] = USE
    listeners = [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
    ref = {"group": "", "kind": "ConfigMap", "name": "size"}
    rules = [{"to": [{"operation": {"methods": ["GET"]}}]}]
    backends = [{"backendRefs": [{"name": "gone", "port": 80}]}]
    await apply(kube, SERVICES, web)
    data = {"replicas": "2", "maxReplicas": "4"}
    config_map = {"metadata": {"name": "size", "namespace": "shop"}, "data": data}
    await apply(kube, CONFIG_MAPS, config_map)
    gateway = spec("wp", gatewayClassName="istio-waypoint", listeners=listeners)
    gateway["spec"]["infrastructure"] = {"parametersRef": ref}
    await apply(kube, GATEWAYS, gateway)
    for resource, obj in (
        (SERVICE_ENTRIES, service_entry("ext", "shop", "a.x", labels=USE)),
        (WORKLOAD_ENTRIES, workload_entry("vm", "shop", "192.0.2.1", labels=USE)),
        (WORKLOAD_GROUPS, spec("vms", template={"serviceAccount": "vm"})),
        (AUTHORIZATION_POLICIES, spec("l4", rules=rules)),
        (AUTHORIZATION_POLICIES, spec("l7", targetRefs=[ON_WEB], rules=rules)),
        (PEER_AUTHENTICATIONS, spec("strict", mtls={"mode": "STRICT"})),
        (HTTP_ROUTES, route("r", "shop", ON_WEB, rules=backends)),
        (GRPC_ROUTES, route("r", "shop", ON_WEB, kind="GRPCRoute")),
        (TCP_ROUTES, route("r", "shop", ON_WEB, kind="TCPRoute", rules=backends)),
        (TLS_ROUTES, route("r", "shop", ON_WEB, kind="TLSRoute", rules=backends)),
        (REFERENCE_GRANTS, grant("g", "shop", "other")),
        (BACKEND_TLS_POLICIES, spec("tls", targetRefs=[ON_WEB], validation=SYSTEM_ROOTS)),
        (BACKEND_TRAFFIC_POLICIES, spec("traffic", targetRefs=[ON_WEB])),
    ):
        metadata = {
            name: value
            for name, value in obj["metadata"].items()
            if name in ("name", "namespace", "labels")
        }
        await apply(kube, resource, {"metadata": metadata, "spec": obj["spec"]})


async def said(kube, resource, name):
    obj = await found(kube, resource, name, "shop")
    status = (obj or {}).get("status") or {}
    parents = status.get("parents") or status.get("ancestors") or [status]
    return {one["type"]: one["reason"] for one in parents[0].get("conditions") or ()}


async def says(kube, resource, name, type_, reason):
    return (await said(kube, resource, name)).get(type_) == reason


async def test_every_status_is_stored_and_rests(cluster, tmp_path, monkeypatch):
    kube = cluster.kube
    await objects_of_every_kind(kube)
    async with control_plane(cluster, tmp_path, monkeypatch):
        bound, not_ready = "istio.io/WaypointBound", "WaypointIsNotReady"
        for resource, name, type_, reason in (
            (SERVICES, "web", bound, not_ready),
            (SERVICE_ENTRIES, "ext", bound, not_ready),
            (WORKLOAD_ENTRIES, "vm", bound, not_ready),
            (AUTHORIZATION_POLICIES, "l4", "ZtunnelAccepted", "UnsupportedValue"),
            (AUTHORIZATION_POLICIES, "l7", "WaypointAccepted", "AncestorNotBound"),
            (PEER_AUTHENTICATIONS, "strict", "ZtunnelAccepted", "Accepted"),
            (HTTP_ROUTES, "r", "ResolvedRefs", "BackendNotFound"),
            (GRPC_ROUTES, "r", "Accepted", "Accepted"),
            (TCP_ROUTES, "r", "ResolvedRefs", "BackendNotFound"),
            (TLS_ROUTES, "r", "ResolvedRefs", "BackendNotFound"),
            (BACKEND_TLS_POLICIES, "tls", "ResolvedRefs", "ResolvedRefs"),
            (BACKEND_TRAFFIC_POLICIES, "traffic", "Accepted", "Accepted"),
            (GATEWAYS, "wp", "Programmed", "AddressNotAssigned"),
        ):
            await until(says, kube, resource, name, type_, reason)

        async def addressed():
            entry = await kube.get(SERVICE_ENTRIES, "ext", "shop")
            return len(entry["status"].get("addresses") or ()) == 2

        await until(addressed)
        for resource in (DEPLOYMENTS, POD_DISRUPTION_BUDGETS, HORIZONTAL_POD_AUTOSCALERS):
            await until(found, kube, resource, "wp", "shop")
        # Another controller's condition lives beside ours.
        theirs = {"type": "Other", "status": "True", "reason": "R", "message": "m",
                  "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
        entry = {
            "metadata": {"name": "ext", "namespace": "shop"},
            "status": {"conditions": [theirs]},
        }
        await kube.patch(SERVICE_ENTRIES, "ext", entry, namespace="shop", kind="apply",
                         subresource="status", field_manager="other")  # fmt: skip
        unlabelled = {"metadata": {"labels": {"istio.io/use-waypoint": None}}}
        await kube.patch(SERVICE_ENTRIES, "ext", unlabelled, namespace="shop")

        async def only_theirs():
            return await said(kube, SERVICE_ENTRIES, "ext") == {"Other": "R"}

        await until(only_theirs)
        before = await versions(kube)
        await trio.sleep(0.5)
        assert await versions(kube) == before
    await clean(kube)


async def versions(kube):
    """A control plane that has said everything writes nothing more."""
    return {
        (resource.kind, one["metadata"]["name"]): one["metadata"]["resourceVersion"]
        for resource in WRITTEN
        for one in await kube.list(resource, "shop")
    }


async def clean(kube):
    for resource in (*WRITTEN, GRPC_ROUTES, TCP_ROUTES, TLS_ROUTES, WORKLOAD_GROUPS,
                     REFERENCE_GRANTS, BACKEND_TLS_POLICIES, BACKEND_TRAFFIC_POLICIES, DEPLOYMENTS,
                     POD_DISRUPTION_BUDGETS,
                     HORIZONTAL_POD_AUTOSCALERS):  # fmt: skip
        for one in await kube.list(resource, "shop"):
            await kube.delete(resource, one["metadata"]["name"], "shop")
