"""Rows as ``kubectl get`` prints them."""

from __future__ import annotations

import datetime

import pytest

from ambientctl.local.apiserver.core.kinds import BUILTIN
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.table import table
from tests.unit.ambientctl.local.worlds import crd, node, pod, service, widget, workload


def row(world, obj, *, wide=True):
    """Column name to cell of one object."""
    now = world.now + datetime.timedelta(seconds=5)
    shown = table(world.cluster.kind_of(obj), [obj], now, "")
    (found,) = shown["rows"]
    names = [c["name"] for c in shown["columnDefinitions"] if wide or c["priority"] == 0]
    cells = dict(zip([c["name"] for c in shown["columnDefinitions"]], found["cells"], strict=True))
    return {name: cells[name] for name in names}


def test_a_service(world):
    shown = row(world, world.create(service(clusterIP="10.96.0.10")))
    assert shown == {
        "Name": "web",
        "Type": "ClusterIP",
        "Cluster-IP": "10.96.0.10",
        "External-IP": "<none>",
        "Port(s)": "80/TCP",
        "Age": "5s",
        "Selector": "app=web",
    }


def test_services_of_other_types(world):
    balanced = row(world, world.create(service("a", type="LoadBalancer")))
    assert (balanced["External-IP"], balanced["Port(s)"]) == ("<pending>", "80:30000/TCP")
    outside = service("b", type="ExternalName", externalName="x.example", ports=[])
    assert row(world, world.create(outside))["External-IP"] == "x.example"


def test_a_node(world):
    shown = row(world, world.create(node("node-1", unschedulable=True)))
    assert shown["Status"] == "Ready,SchedulingDisabled"
    assert (shown["Roles"], shown["Internal-IP"]) == ("<none>", "<none>")


def test_workloads(world):
    shown = row(world, world.create(workload(replicas=2)))
    assert (shown["Ready"], shown["Images"], shown["Selector"]) == ("0/2", "app:v1", "app=web")
    assert row(world, world.create(workload("DaemonSet")))["Node Selector"] == "<none>"
    assert row(world, world.create(workload("ReplicaSet")))["Desired"] == 1


def test_a_custom_resource_by_its_own_columns(world):
    world.create(crd())
    assert row(world, world.create(widget(color="red"))) == {"Name": "a", "Color": "red"}


def test_every_built_in_kind_has_as_many_cells_as_columns(world):
    spec = {"type": "ClusterIP", "containers": [], "template": {"spec": {}}}
    bare = {"metadata": {"name": "x", "uid": "u"}, "spec": spec, "status": {}}
    for kind in BUILTIN:
        shown = table(kind, [bare], world.now, "None")
        assert len(shown["rows"][0]["cells"]) == len(shown["columnDefinitions"]), kind.kind


def test_how_much_of_the_object_goes_along(world):
    made = world.create(service())
    kind = world.cluster.kind_of(made)
    by_include = {
        include: table(kind, [made], world.now, include)["rows"][0]["object"]
        for include in ("", "Metadata", "Object", "None")
    }
    assert by_include["Object"] == made
    assert by_include["None"] is None
    assert by_include[""] == by_include["Metadata"]
    assert by_include[""]["kind"] == "PartialObjectMetadata"
    with pytest.raises(ApiError, match="includeObject"):
        table(kind, [made], world.now, "Half")


STARTED = {"running": {}}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [{"ready": True, "state": STARTED}]}, "Running"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        ({"phase": "Running", "containerStatuses":
            [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoopBackOff"),
        ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]},
         "ExitCode:3"),
        ({"phase": "Failed", "containerStatuses":
            [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}, "Signal:9"),
        ({"phase": "Succeeded", "containerStatuses":
            [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}, "Completed"),
        ({"phase": "Running", "containerStatuses":
            [{"state": {"terminated": {"reason": "Completed"}}}, {"state": STARTED}]}, "NotReady"),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}, "Init:0/1"),
        ({"phase": "Pending", "initContainerStatuses":
            [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}, "Init:Error"),
        ({"phase": "Pending", "initContainerStatuses":
            [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}, "Init:ErrImagePull"),
        ({"phase": "Running", "initContainerStatuses":
            [{"state": {"terminated": {"exitCode": 0}}}]}, "Running"),
    ],
)  # fmt: skip
def test_the_status_of_a_pod(world, change, status):
    made = world.create(pod(initContainers=[{"name": "init", "image": "x"}]))
    assert row(world, {**made, "status": change})["Status"] == status


def test_a_pod_that_is_being_deleted(world):
    made = world.create(pod(nodeName="node-1"))
    shown = row(world, {**world.delete(made), "status": {"phase": "Running", "podIP": "10.0.0.1"}})
    assert (shown["Status"], shown["IP"], shown["Node"]) == ("Terminating", "10.0.0.1", "node-1")


def test_restarts_say_how_long_ago(world):
    made = world.create(pod())
    ended = {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}
    status = {"containerStatuses": [{"restartCount": 2, "lastState": ended}]}
    assert row(world, {**made, "status": status})["Restarts"] == "2 (5s ago)"
