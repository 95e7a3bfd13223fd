"""The whole way: our session against a control plane that speaks gRPC over TLS."""

import re
from ipaddress import ip_address

import msgspec
import pytest
import trio
import trio.testing

from ambient.api.address import NetworkAddress
from ambient.api.pb import workload_pb2
from ambient.api.policy import Action, Authorization, Scope
from ambient.api.workload import TunnelProtocol, Workload
from ambient.identity.io.grpc_server import GrpcServer
from ambient.state.core.mesh import MeshState
from ambient.xds.core.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, BadResource
from ambient.xds.io.session import NodeInfo, XdsSession
from tests.fakes.xds_server import FakeControlPlane

NODE = NodeInfo(
    kind="ztunnel", ip="10.1.2.3", name="ztunnel-x", namespace="istio-system", node_name="node-1"
)
TYPES = (ADDRESS_TYPE, AUTHORIZATION_TYPE)


def pod(name: str, ip: str) -> Workload:
    return Workload(
        uid=f"Kubernetes//Pod/shop/{name}",
        name=name,
        namespace="shop",
        addresses=(ip_address(ip),),
        tunnel_protocol=TunnelProtocol.HBONE,
        cluster_id="Kubernetes",
    )


POLICY = Authorization(name="p", namespace="shop", scope=Scope.NAMESPACE, action=Action.ALLOW)


class Proxy:
    """A session that keeps a MeshState, and lets a test wait for what it knows."""

    def __init__(self, control: FakeControlPlane, on_demand=(), **headers) -> None:
        self.mesh = MeshState()
        self.updates = []
        self._changed = trio.Event()
        settings = GrpcServer(**control.settings(), headers=headers)
        self.session = XdsSession(settings, NODE, TYPES, self.apply, on_demand=on_demand)

    def apply(self, update):
        self.updates.append(update)
        self.mesh.apply(update.type_url, update.changed, update.removed)
        self._changed.set()
        self._changed = trio.Event()
        return ()

    async def until(self, condition) -> None:
        with trio.fail_after(30):
            while not condition():
                await self._changed.wait()


@pytest.fixture
def control(tmp_path):
    with FakeControlPlane(tmp_path) as running:
        yield running


@pytest.fixture
async def proxy(control, nursery):
    running = Proxy(control)
    await nursery.start(running.session.run)
    return running


async def poll(condition) -> None:
    """For what happens on the server's threads, which cannot wake us."""
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


async def test_everything_arrives_and_then_changes_do(control, proxy):
    control.xds.put(pod("a", "10.0.0.1"), POLICY)
    with trio.fail_after(30):
        await proxy.session.synced.wait()
    await proxy.until(lambda: len(proxy.mesh.workloads) == 1 and len(proxy.mesh.policies) == 1)

    control.xds.put(pod("b", "10.0.0.2"))
    await proxy.until(lambda: proxy.mesh.workloads_of_pod("shop", "b"))
    control.xds.remove(ADDRESS_TYPE, "Kubernetes//Pod/shop/a")
    await proxy.until(lambda: not proxy.mesh.workloads_of_pod("shop", "a"))

    address = NetworkAddress("", ip_address("10.0.0.2"))
    assert proxy.mesh.workload_by_address(address) == pod("b", "10.0.0.2")


async def test_the_control_plane_is_told_who_asks(control, proxy):
    with trio.fail_after(30):
        await proxy.session.synced.wait()
    assert control.xds.metadata[0]["authorization"] == "Bearer token"
    assert control.xds.metadata[0]["clusterid"] == "Kubernetes"
    node = control.xds.requests[0].node
    assert node.id == "ztunnel~10.1.2.3~ztunnel-x.istio-system~istio-system.svc.cluster.local"
    assert dict(node.metadata)["NODE_NAME"] == "node-1"


async def test_a_bad_resource_is_rejected_by_name_and_the_good_ones_apply(control, proxy):
    legacy = workload_pb2.Address()
    legacy.workload.uid = "old"
    legacy.workload.tunnel_protocol = 2
    control.xds.put(pod("a", "10.0.0.1"))
    control.xds.put_raw(ADDRESS_TYPE, "old", legacy.SerializeToString(), "1")
    await poll(lambda: control.xds.nacks)
    assert re.match(r"old: tunnel_protocol 2: ", control.xds.nacks[0])
    await proxy.until(lambda: proxy.mesh.workloads_of_pod("shop", "a"))
    assert proxy.mesh.workload("old") is None


async def test_after_a_lost_connection_only_the_difference_is_sent(control, proxy):
    control.xds.put(pod("a", "10.0.0.1"), pod("b", "10.0.0.2"))
    await proxy.until(lambda: len(proxy.mesh.workloads) == 2)
    await poll(lambda: sum(bool(r.response_nonce) for r in control.xds.requests) >= 2)

    control.stop()
    control.xds.remove(ADDRESS_TYPE, "Kubernetes//Pod/shop/a")
    control.xds.put(pod("c", "10.0.0.3"))
    assert len(proxy.mesh.workloads) == 2  # what was known stays known
    proxy.updates.clear()
    control.start()

    await proxy.until(lambda: proxy.mesh.workloads_of_pod("shop", "c"))
    update = next(u for u in proxy.updates if u.type_url == ADDRESS_TYPE)
    assert list(update.changed) == ["Kubernetes//Pod/shop/c"]
    assert update.removed == {"Kubernetes//Pod/shop/a"}


async def test_a_server_that_ends_the_stream_is_asked_again(control, proxy):
    with trio.fail_after(30):
        await proxy.session.synced.wait()
    control.xds.end_streams()
    control.xds.put(pod("a", "10.0.0.1"))
    await proxy.until(lambda: len(proxy.mesh.workloads) == 1)
    await poll(lambda: proxy.session.stats.terminations["Complete"] >= 1)


async def test_what_apply_cannot_use_is_nacked_and_asked_for_again(control, nursery):
    def apply(update):
        return [BadResource("rules", 1, "too new", name=name) for name in update.changed]

    session = XdsSession(GrpcServer(**control.settings()), NODE, TYPES, apply)
    await nursery.start(session.run)
    control.xds.put(pod("a", "10.0.0.1"))
    await poll(lambda: control.xds.nacks)
    control.xds.end_streams()
    await poll(lambda: len(control.xds.nacks) >= 2)


async def test_cancelling_ends_the_call_and_its_threads_promptly(control, nursery):
    proxy = Proxy(control)
    with trio.fail_after(30):
        async with trio.open_nursery() as inner:
            await inner.start(proxy.session.run)
            await proxy.session.synced.wait()
            started = trio.current_time()
            inner.cancel_scope.cancel()
    assert trio.current_time() - started < 5
    await poll(lambda: control.xds.streams == 0)


async def test_no_control_plane_means_retries_not_an_error(tmp_path, nursery):
    control = FakeControlPlane(tmp_path)
    control.start()
    control.stop()
    proxy = Proxy(control)
    await nursery.start(proxy.session.run)
    await poll(lambda: proxy.session.stats.terminations["ConnectionError"] >= 2)
    control.start()
    with trio.fail_after(30):
        await proxy.session.synced.wait()
    control.stop()


async def test_a_missing_root_file_is_retried(tmp_path, nursery):
    with FakeControlPlane(tmp_path) as control:
        root = control.root_ca_file.read_bytes()
        control.root_ca_file.unlink()
        proxy = Proxy(control)
        await nursery.start(proxy.session.run)
        await poll(lambda: proxy.session.stats.terminations["Error"] >= 1)
        control.root_ca_file.write_bytes(root)
        with trio.fail_after(30):
            await proxy.session.synced.wait()
        nursery.cancel_scope.cancel()


async def test_on_demand_only_what_is_asked_for_arrives_and_our_own_node(control, nursery):
    control.xds.put(pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), POLICY)
    control.xds.put(msgspec.structs.replace(pod("local", "10.0.0.3"), node="node-1"))
    proxy = Proxy(control, on_demand={ADDRESS_TYPE}, tenant="blue")
    await nursery.start(proxy.session.run)
    with trio.fail_after(30):
        await proxy.session.synced.wait()
    assert {w.name for w in proxy.mesh.workloads} == {"local"}
    assert len(proxy.mesh.policies) == 1, "policies are never on demand"
    assert control.xds.metadata[0]["tenant"] == "blue"

    with trio.fail_after(30):
        await proxy.session.demand(ADDRESS_TYPE, "/10.0.0.1")
        assert {w.name for w in proxy.mesh.workloads} == {"local", "a"}
        await proxy.session.demand(ADDRESS_TYPE, "/8.8.8.8")  # nothing is there, and that is known
        await proxy.session.demand(ADDRESS_TYPE, "/8.8.8.8")
    asked = [r for r in control.xds.requests if list(r.resource_names_subscribe) == ["/8.8.8.8"]]
    assert len(asked) == 1

    # what was asked for stays current, also over a reconnect; the rest stays away
    control.xds.put(pod("c", "8.8.8.8"), pod("d", "10.0.0.9"))
    await proxy.until(lambda: proxy.mesh.workloads_of_pod("shop", "c"))
    control.xds.end_streams()
    await poll(lambda: len(control.xds.metadata) == 2)
    control.xds.put(msgspec.structs.replace(pod("a", "10.0.0.1"), canonical_name="new"))
    await proxy.until(lambda: proxy.mesh.workloads_of_pod("shop", "a")[0].canonical_name == "new")
    assert {w.name for w in proxy.mesh.workloads} == {"local", "a", "c"}


async def test_what_is_asked_for_while_the_control_plane_is_away_comes_with_it(control, nursery):
    control.xds.put(pod("a", "10.0.0.1"))
    proxy = Proxy(control, on_demand={ADDRESS_TYPE})
    await nursery.start(proxy.session.run)
    with trio.fail_after(30):
        await proxy.session.synced.wait()
        control.stop()
        async with trio.open_nursery() as callers:
            callers.start_soon(proxy.session.demand, ADDRESS_TYPE, "/10.0.0.1")
            await trio.testing.wait_all_tasks_blocked()
            control.start()
    assert proxy.mesh.workloads_of_pod("shop", "a")
