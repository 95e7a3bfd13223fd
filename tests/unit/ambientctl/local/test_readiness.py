"""When is the mesh complete, and which program keeps it from being so?"""

from __future__ import annotations

import pytest

from ambientctl.local.readiness import MAX_RESTARTS, assess, failing, why_waiting


def node(name="node-1", ready=True):
    return {"metadata": {"name": name}, "status": conditions(ready)}


def conditions(ready):
    return {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}


def workload(kind="Deployment", app="web", replicas=1):
    spec = {"selector": {"matchLabels": {"app": app}}}
    if kind == "Deployment":
        spec["replicas"] = replicas
    return {"kind": kind, "metadata": {"namespace": "shop", "name": app}, "spec": spec}


def pod(app="web", ready=True, **metadata):
    return {
        "metadata": {"namespace": "shop", "name": f"{app}-1", "labels": {"app": app}, **metadata},
        "status": conditions(ready),
    }


@pytest.mark.parametrize(
    ("workloads", "pods", "waiting"),
    [
        ([workload()], [pod()], ()),
        ([workload()], [], ("shop/web",)),  # no pod has been made yet
        ([workload()], [pod(ready=False)], ("shop/web",)),
        ([workload(replicas=2)], [pod()], ("shop/web",)),
        ([workload(replicas=0)], [], ()),
        ([workload("DaemonSet")], [pod()], ("shop/web",)),  # two nodes, one pod
        ([workload("DaemonSet")], [pod(), pod()], ()),
        ([workload()], [pod(app="else")], ("shop/web",)),
        ([workload()], [pod(deletionTimestamp="now")], ("shop/web",)),
    ],
)
def test_every_workload_must_have_its_ready_pods(workloads, pods, waiting):
    assert assess([node(), node("node-2")], workloads, pods, 2).waiting == waiting


def test_nodes_must_be_there_and_ready():
    assert assess([node()], [], [], 2).waiting == ("nodes",)
    assert assess([node(ready=False)], [], [], 1).waiting == ("node node-1",)


def crashing(restarts, namespace="istio-system"):
    status = {
        "name": "discovery",
        "restartCount": restarts,
        "lastState": {"terminated": {"exitCode": 3}},
    }
    return {
        "metadata": {"namespace": namespace, "name": "istiod-1"},
        "status": {"containerStatuses": [status]},
    }


def test_a_mesh_program_that_keeps_ending_is_named():
    assert failing([crashing(MAX_RESTARTS)]).exit_code == 3
    assert failing([crashing(MAX_RESTARTS - 1)]) is None
    assert failing([crashing(MAX_RESTARTS, "bookinfo")]) is None


def test_the_reason_of_a_waiting_container_is_told():
    waiting = {"reason": "ContainerCreating", "message": "no such ConfigMap"}
    status = {"containerStatuses": [{"state": {"waiting": waiting}}]}
    assert why_waiting({"status": status}) == "ContainerCreating: no such ConfigMap"
    assert why_waiting(pod()) == ""
