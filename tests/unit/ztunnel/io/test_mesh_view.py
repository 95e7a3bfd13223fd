"""Our own pods as the control plane knows them, and waiting for that."""

import pytest
import trio

from ambient.net.core.wire import Add
from tests.unit.ztunnel.core.mesh_builder import mesh, workload
from ztunnel.io.mesh_view import MeshView, UnknownWorkloadError

WEB = workload("web-1", "10.0.0.1", service_account="web")


def test_name_namespace_and_account_must_all_agree():
    view = MeshView(mesh(WEB), "")
    assert view.find(Add("u", "web-1", "shop", "web")) == WEB
    assert view.find(Add("u", "web-1", "shop", "other")) is None
    assert view.find(Add("u", "web-1", "other", "web")) is None


async def test_a_connection_waits_for_its_workload(autojump_clock):
    view = MeshView(mesh(), "")

    async def arrive_late():
        await trio.sleep(4.9)
        view.state.apply("type.googleapis.com/istio.workload.Address", {"": WEB})
        view.notify()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive_late)
        assert await view.workload_of(Add("u", "web-1", "shop", "web")) == WEB


async def test_but_not_for_ever(autojump_clock):
    view = MeshView(mesh(), "")
    with pytest.raises(UnknownWorkloadError, match="shop/web-1"):
        await view.workload_of(Add("u", "web-1", "shop", "web"))
    assert trio.current_time() == pytest.approx(5.0)
