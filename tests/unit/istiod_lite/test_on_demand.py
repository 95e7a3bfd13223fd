"""A tunnel on demand against the real control plane: what it asks for, and its own node's pods."""

import trio

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.identity.io.grpc_server import GrpcServer
from ambient.xds.io.session import NodeInfo, XdsSession
from tests.unit.istiod_lite.objects import pod
from tests.unit.istiod_lite.test_app import PODS, control_plane, standing_mesh

ZTUNNEL = NodeInfo(
    kind="ztunnel", ip="10.0.0.1", name="zt-1", namespace="istio-system", node_name="n2"
)
API = "Kubernetes//Pod/shop/api"
WEB = "Kubernetes//Pod/shop/web"
SERVICE = "shop/web.shop.svc.cluster.local"


async def test_a_service_comes_with_the_pods_behind_it_when_it_is_asked_for(tmp_path, monkeypatch):
    api, held = standing_mesh(), {}
    changed = trio.Event()

    def apply(update):
        held.update(update.changed)
        for name in update.removed:
            held.pop(name, None)
        changed.set()
        return ()

    async with control_plane(api, tmp_path, monkeypatch) as plane:
        (tmp_path / "token").write_text("zt")
        settings = GrpcServer(
            address=f"127.0.0.1:{plane.ports['xds_port']}",
            root_ca_file=str(tmp_path / "root.pem"),
            token_file=str(tmp_path / "token"),
            alt_hostname="istiod.istio-system.svc",
        )
        types = (ADDRESS_TYPE, AUTHORIZATION_TYPE)
        session = XdsSession(settings, ZTUNNEL, types, apply, on_demand={ADDRESS_TYPE})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await session.synced.wait()
            assert set(held) == {API}, "the pod of our own node, unasked"

            await session.demand(ADDRESS_TYPE, "/10.96.0.10")
            assert set(held) == {API, WEB, SERVICE}

            started = trio.current_time()
            await session.demand(ADDRESS_TYPE, "/192.0.2.1")
            assert trio.current_time() - started < 4, "that there is nothing is an answer too"

            # a pod behind the service that was asked for is told without asking again
            held.clear()
            second = pod("web-2", "shop", "10.1.0.9", account="web", node="n1")
            second["metadata"]["labels"] = {"app": "web"}
            changed = trio.Event()
            api.put(PODS, second)
            await changed.wait()
            assert "Kubernetes//Pod/shop/web-2" in held
            nursery.cancel_scope.cancel()
