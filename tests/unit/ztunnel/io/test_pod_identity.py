"""A pod is who it says only with its name, account and address. Our own namespace is the pod."""

import pytest
import trio

from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from tests.unit.ztunnel.core.mesh_builder import mesh, workload
from ztunnel.io.mesh_view import MeshView, UnknownWorkloadError
from ztunnel.io.pod_identity import ForeignNamespaceError, PodIdentity

INFO = Add("u", "web-1", "shop", "web")
WEB = workload("web-1", "10.0.0.1", "127.0.0.1", service_account="web")
FOREIGN = workload("web-1", "203.0.113.7", "2001:db8::7", service_account="web")


@pytest.fixture
def netns():
    with Netns.current() as here:
        yield here


def learn(view, one):
    view.state.apply("type.googleapis.com/istio.workload.Address", {"": one})
    view.notify()


async def test_a_connection_waits_for_its_workload(netns, autojump_clock):
    view = MeshView(mesh(), "")

    async def arrive_late():
        await trio.sleep(4.9)
        learn(view, WEB)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive_late)
        assert await PodIdentity(view, INFO, netns).workload() == WEB


async def test_but_not_for_ever(netns, autojump_clock):
    identity = PodIdentity(MeshView(mesh(), ""), INFO, netns)
    with pytest.raises(UnknownWorkloadError, match="shop/web-1"):
        await identity.workload()
    assert trio.current_time() == pytest.approx(5.0)


async def test_pain_37_a_namespace_without_the_pods_addresses_is_nobodys(netns, autojump_clock):
    view = MeshView(mesh(FOREIGN), "")
    identity = PodIdentity(view, INFO, netns)
    with pytest.raises(ForeignNamespaceError) as refused:
        await identity.workload()
    for part in ("shop/web-1", "uid u", "203.0.113.7", str(netns.key[1])):
        assert part in str(refused.value)
    learn(view, WEB)
    assert await identity.workload() == WEB
    learn(view, FOREIGN)  # replaced under the same name, on another node
    with pytest.raises(ForeignNamespaceError):
        await identity.workload()


async def test_without_addresses_there_is_nothing_to_compare(netns):
    bare = workload("web-1", service_account="web")
    assert await PodIdentity(MeshView(mesh(bare), ""), INFO, netns).workload() == bare
