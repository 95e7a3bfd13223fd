"""Our own pods as the control plane knows them, and waiting for that."""

import msgspec
import trio
import trio.testing

from ambient.net.core.wire import Add
from tests.unit.ztunnel.core.mesh_builder import mesh, workload
from ztunnel.io.mesh_view import MeshView

WEB = workload("web-1", "10.0.0.1", service_account="web")


def test_name_namespace_and_account_must_all_agree():
    view = MeshView(mesh(WEB), "")
    assert view.find(Add("u", "web-1", "shop", "web")) == WEB
    assert view.find(Add("u", "web-1", "shop", "other")) is None
    assert view.find(Add("u", "web-1", "other", "web")) is None


def test_the_pod_on_our_own_node_is_ours():
    here = workload("web-1", "10.0.0.1", service_account="web", node="n1", cluster_id="c1")
    there = msgspec.structs.replace(here, uid="c2//Pod/shop/web-1", node="n1", cluster_id="c2")
    elsewhere = msgspec.structs.replace(here, uid="c0//Pod/shop/web-1", node="n2")
    view = MeshView(mesh(elsewhere, here, there), "", "n1", "c1")
    assert view.find(Add("u", "web-1", "shop", "web")) == here


async def test_whoever_waits_hears_of_a_change(autojump_clock):
    view = MeshView(mesh(), "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.changed)
        await trio.testing.wait_all_tasks_blocked()
        view.notify()
