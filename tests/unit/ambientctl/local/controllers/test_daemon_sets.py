"""DaemonSets: one pod on every node that fits."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import DAEMON_SETS, NODES
from ambientctl.local.controllers import daemon_sets
from ambientctl.local.controllers.pods import is_ready, is_terminating
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import node, workload


@pytest.fixture
def mesh(world):
    settling = Settling(world, daemon_sets.CONTROLLER)
    for name in ("node-1", "node-2"):
        world.create(node(name))
    return settling


def daemon(**template_spec):
    obj = workload("DaemonSet", "zt")
    obj["spec"]["template"]["spec"] |= template_spec
    return obj


def places(mesh):
    return sorted(p["spec"]["nodeName"] for p in mesh.pods() if not is_terminating(p))


def get(mesh):
    return mesh.world.cluster.store.get(DAEMON_SETS, "shop", "zt")


def test_every_node_gets_one_also_a_later_and_an_unready_one(mesh):
    mesh.world.create(daemon())
    mesh.settle()
    assert places(mesh) == ["node-1", "node-2"]
    mesh.world.create(node("node-3", ready=False))
    mesh.settle()
    assert places(mesh) == ["node-1", "node-2", "node-3"]
    assert get(mesh)["status"]["desiredNumberScheduled"] == 3


def test_only_selected_nodes(mesh):
    mesh.world.create(daemon(nodeSelector={"kubernetes.io/hostname": "node-2"}))
    mesh.settle()
    assert places(mesh) == ["node-2"]


def test_a_cordoned_node_keeps_its_daemon(mesh):
    mesh.world.create(daemon())
    live = mesh.world.cluster.store.get(NODES, "", "node-1")
    mesh.world.update({**live, "spec": {"unschedulable": True}})
    mesh.settle()
    assert places(mesh) == ["node-1", "node-2"]


def test_a_failed_daemon_is_replaced(mesh):
    mesh.world.create(daemon())
    mesh.settle()
    failed = mesh.pods()[0]
    mesh.world.cluster.store.put(("", "pods"), {**failed, "status": {"phase": "Failed"}})
    mesh.settle()
    assert failed["metadata"]["name"] not in {p["metadata"]["name"] for p in mesh.pods()}
    assert places(mesh) == ["node-1", "node-2"]


def test_an_update_takes_one_node_after_the_other(mesh):
    mesh.world.create(daemon())
    mesh.settle()
    for pod in mesh.pods():
        mesh.make_ready(pod["metadata"]["name"])
    mesh.settle()
    live = get(mesh)
    template = daemon()["spec"]["template"]
    template["spec"]["containers"][0]["image"] = "app:v2"
    mesh.world.update({**live, "spec": {**live["spec"], "template": template}})
    for _ in range(20):
        mesh.settle()
        assert sum(is_ready(p) and not is_terminating(p) for p in mesh.pods()) >= 1
        for pod in mesh.pods():
            name = pod["metadata"]["name"]
            if is_terminating(pod):
                mesh.finish(name)
                break
            if not is_ready(pod):
                mesh.make_ready(name)
                break
        else:
            break
    status = get(mesh)["status"]
    assert (status["updatedNumberScheduled"], status["numberAvailable"]) == (2, 2)
    assert {p["spec"]["containers"][0]["image"] for p in mesh.pods()} == {"app:v2"}


def test_with_surge_the_old_pod_goes_when_the_new_one_beside_it_is_ready(mesh):
    wanted = daemon()
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    wanted["spec"]["updateStrategy"] = strategy
    mesh.world.create(wanted)
    mesh.settle()
    for pod in mesh.pods():
        mesh.make_ready(pod["metadata"]["name"])
    mesh.settle()
    assert places(mesh) == ["node-1", "node-2"]
    live = get(mesh)
    wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "app:v2"
    template = wanted["spec"]["template"]
    mesh.world.update({**live, "spec": {**live["spec"], "template": template}})
    for node_number in (1, 2):
        mesh.settle()
        (new,) = [pod for pod in mesh.pods() if not is_ready(pod)]
        assert len(places(mesh)) == 3, "one node at a time"
        mesh.make_ready(new["metadata"]["name"])
        mesh.settle()
        (old,) = [p for p in mesh.pods() if is_terminating(p)][node_number - 1 :]
        assert old["spec"]["nodeName"] == new["spec"]["nodeName"]
    assert get(mesh)["status"]["updatedNumberScheduled"] == 2, "old ones may take their time"
    for pod in mesh.pods():
        if is_terminating(pod):
            mesh.finish(pod["metadata"]["name"])
    mesh.settle()
    assert {p["spec"]["containers"][0]["image"] for p in mesh.pods()} == {"app:v2"}
    assert places(mesh) == ["node-1", "node-2"]
