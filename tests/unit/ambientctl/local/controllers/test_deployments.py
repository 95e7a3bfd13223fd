"""Deployments, together with their ReplicaSets, as scenarios."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import DEPLOYMENTS, EVENTS, REPLICA_SETS
from ambientctl.local.controllers import deployments, replica_sets
from ambientctl.local.controllers.pods import is_ready, is_terminating
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import workload


@pytest.fixture
def mesh(world):
    return Settling(world, deployments.CONTROLLER, replica_sets.CONTROLLER)


def get(mesh):
    return mesh.world.cluster.store.get(DEPLOYMENTS, "shop", "web")


def sets(mesh):
    """Wanted replicas of each ReplicaSet, oldest first."""
    found = mesh.world.cluster.store.objects(REPLICA_SETS)
    ordered = sorted(found, key=lambda rs: int(rs["metadata"]["uid"].split("-")[1]))
    return [rs["spec"]["replicas"] for rs in ordered]


def all_ready(mesh):
    while True:
        mesh.settle()
        todo = [p for p in mesh.pods() if not is_ready(p) and not is_terminating(p)]
        if not todo:
            return
        mesh.make_ready(todo[0]["metadata"]["name"])


def change(mesh, **spec):
    live = get(mesh)
    mesh.world.update({**live, "spec": {**live["spec"], **spec}})


def template(image):
    return workload()["spec"]["template"] | {
        "spec": {"containers": [{"name": "app", "image": image}]}
    }


def condition(mesh, name):
    return next(c for c in get(mesh)["status"]["conditions"] if c["type"] == name)


def test_a_new_deployment_makes_its_pods(mesh):
    mesh.world.create(workload(replicas=2))
    mesh.settle()
    (replica_set,) = mesh.world.cluster.store.objects(REPLICA_SETS)
    digest = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{digest}"
    assert all(p["metadata"]["name"].startswith(f"web-{digest}-") for p in mesh.pods())
    assert len(mesh.pods()) == 2
    assert get(mesh)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert condition(mesh, "Available")["status"] == "False"
    all_ready(mesh)
    status = get(mesh)["status"]
    assert (status["readyReplicas"], status["updatedReplicas"]) == (2, 2)
    assert condition(mesh, "Available")["status"] == "True"
    assert condition(mesh, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_a_rolling_update_keeps_enough_pods_at_every_moment(mesh):
    mesh.world.create(workload(replicas=4))
    all_ready(mesh)
    change(mesh, template=template("app:v2"))
    while True:
        mesh.settle()
        serving = [p for p in mesh.pods() if is_ready(p) and not is_terminating(p)]
        assert len(serving) >= 3  # maxUnavailable 25 %
        assert sum(sets(mesh)) <= 5  # maxSurge 25 %
        todo = [p for p in mesh.pods() if not is_ready(p)]
        if not todo:
            break
        mesh.make_ready(todo[0]["metadata"]["name"])
    assert sets(mesh) == [0, 4]
    assert get(mesh)["status"]["updatedReplicas"] == 4


def test_a_broken_update_stops_and_the_old_pods_serve_on(mesh):
    mesh.world.create(workload(replicas=4))
    all_ready(mesh)
    change(mesh, template=template("app:broken"))
    mesh.settle()
    assert sets(mesh) == [3, 2]
    assert sum(is_ready(p) for p in mesh.pods()) == 3


def test_going_back_uses_the_old_replica_set(mesh):
    mesh.world.create(workload(replicas=1))
    all_ready(mesh)
    first = get(mesh)["spec"]["template"]
    change(mesh, template=template("app:v2"))
    all_ready(mesh)
    change(mesh, template=first)
    all_ready(mesh)
    assert sets(mesh) == [1, 0]
    assert get(mesh)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


def test_scaling_is_told_as_an_event(mesh):
    mesh.world.create(workload(replicas=1))
    mesh.settle()
    change(mesh, replicas=3)
    mesh.settle()
    messages = [e["message"] for e in mesh.world.cluster.store.objects(EVENTS)]
    assert any(m.startswith("Scaled up") and m.endswith("from 1 to 3") for m in messages)
    assert len(mesh.pods()) == 3


def test_recreate_waits_for_the_old_pods_to_be_gone(mesh):
    mesh.world.create(workload(replicas=1, strategy={"type": "Recreate"}))
    all_ready(mesh)
    (old,) = mesh.pods()
    bound = {**old, "spec": {**old["spec"], "nodeName": "node-1"}}
    mesh.world.cluster.store.put(("", "pods"), bound)
    change(mesh, template=template("app:v2"))
    mesh.settle()
    assert sets(mesh) == [0, 0]
    mesh.finish(old["metadata"]["name"])
    mesh.settle()
    assert sets(mesh) == [0, 1]


def test_a_paused_deployment_rolls_nothing_out(mesh):
    mesh.world.create(workload(replicas=1))
    all_ready(mesh)
    change(mesh, paused=True, template=template("app:v2"))
    mesh.settle()
    assert sets(mesh) == [1]
    assert condition(mesh, "Progressing")["reason"] == "DeploymentPaused"
    change(mesh, paused=False)
    all_ready(mesh)
    assert sets(mesh) == [0, 1]


def test_old_replica_sets_are_forgotten_beyond_the_limit(mesh):
    mesh.world.create(workload(replicas=1, revisionHistoryLimit=1))
    for version in range(4):
        change(mesh, template=template(f"app:v{version}"))
        all_ready(mesh)
    assert sets(mesh) == [0, 1]


def test_a_deployment_at_rest_causes_no_writes(mesh):
    mesh.world.create(workload(replicas=1))
    all_ready(mesh)
    revision = mesh.world.cluster.store.revision
    (key,) = [("shop", "web")]
    assert list(deployments.CONTROLLER.decide(mesh.world.cluster, key)) == []
    assert mesh.world.cluster.store.revision == revision
