"""EndpointSlices and Endpoints of a Service."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import ENDPOINT_SLICES
from ambientctl.local.controllers import endpoint_slices, endpoints
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import pod, service


@pytest.fixture
def mesh(world):
    return Settling(world, endpoint_slices.CONTROLLER, endpoints.CONTROLLER)


def slices(mesh):
    mesh.settle()
    return mesh.world.cluster.store.objects(ENDPOINT_SLICES, "shop")


def port(name, number):
    return {
        "containers": [
            {"name": "app", "image": "x", "ports": [{"name": name, "containerPort": number}]}
        ]
    }


def labelled(name, **spec):
    made = pod(name, **spec)
    made["metadata"]["labels"] = {"app": "web"}
    return made


def conditions(mesh):
    """(ready, serving, terminating) of every endpoint."""
    return [
        tuple(endpoint["conditions"][name] for name in ("ready", "serving", "terminating"))
        for found in slices(mesh)
        for endpoint in found["endpoints"]
    ]


def test_a_service_without_pods_has_an_empty_slice(mesh):
    mesh.world.create(service())
    (found,) = slices(mesh)
    assert found["metadata"]["labels"] == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert found["endpoints"] == []


def test_a_pod_through_its_life(mesh):
    mesh.world.create(service())
    made = mesh.world.create(labelled("a", nodeName="node-1"))
    assert conditions(mesh) == []  # no address yet
    mesh.make_ready("a")
    assert conditions(mesh) == [(True, True, False)]
    (found,) = slices(mesh)
    (endpoint,) = found["endpoints"]
    assert endpoint["nodeName"] == "node-1"
    assert endpoint["targetRef"]["name"] == "a"
    mesh.world.delete(made)
    assert conditions(mesh) == [(False, True, True)]
    mesh.finish("a")
    assert conditions(mesh) == []


def test_a_pod_that_is_not_ready(mesh):
    mesh.world.create(service())
    mesh.world.create(labelled("a"))
    mesh.make_ready("a")
    live = mesh.world.find(labelled("a"))
    status = {**live["status"], "conditions": [{"type": "Ready", "status": "False"}]}
    mesh.world.update({**live, "status": status}, "status")
    assert conditions(mesh) == [(False, False, False)]
    mesh.world.create(service("all", selector={"app": "web"}, publishNotReadyAddresses=True))
    assert (True, True, False) in conditions(mesh)


def test_a_named_port_is_resolved_in_each_pod(mesh):
    mesh.world.create(service(ports=[{"port": 80, "name": "http", "targetPort": "web"}]))
    for name, number in (("a", 8080), ("b", 9090), ("c", 9090)):
        mesh.world.create(labelled(name, **port("web", number)))
        mesh.make_ready(name)
    found = {s["ports"][0]["port"]: len(s["endpoints"]) for s in slices(mesh)}
    assert found == {8080: 1, 9090: 2}


def test_labels_decide_and_may_change(mesh):
    mesh.world.create(service())
    made = mesh.world.create(labelled("a"))
    mesh.make_ready("a")
    assert len(conditions(mesh)) == 1
    live = mesh.world.find(made)
    mesh.world.update({**live, "metadata": {**live["metadata"], "labels": {"app": "other"}}})
    assert conditions(mesh) == []


def test_a_service_without_a_selector_is_somebody_elses(mesh):
    mesh.world.create(service(selector={}))
    assert slices(mesh) == []


def test_a_headless_service_says_so(mesh):
    mesh.world.create(service(clusterIP="None"))
    (found,) = slices(mesh)
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_slices_go_with_their_service_and_come_back_when_deleted(mesh):
    made = mesh.world.create(service())
    (found,) = slices(mesh)
    mesh.world.delete(found)
    assert len(slices(mesh)) == 1
    mesh.world.delete(made)
    assert slices(mesh) == []


def test_the_older_form_follows(mesh):
    made = mesh.world.create(service())
    mesh.world.create(labelled("a"))
    mesh.make_ready("a")
    mesh.settle()
    find = mesh.world.cluster.store.get
    (subset,) = find(("", "endpoints"), "shop", "web")["subsets"]
    assert [a["targetRef"]["name"] for a in subset["addresses"]] == ["a"]
    assert subset["ports"][0]["port"] == 80
    mesh.world.delete(made)
    mesh.settle()
    assert find(("", "endpoints"), "shop", "web") is None
