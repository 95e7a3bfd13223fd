"""The scheduler's choice, and what it says when there is none."""

from __future__ import annotations

from collections import Counter

import pytest

from ambientctl.local.apiserver.core.kinds import EVENTS, PODS
from ambientctl.local.controllers import scheduler
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import node, pod

ONE, TWO = node("node-1"), node("node-2")


@pytest.mark.parametrize(
    ("spec", "nodes", "load", "chosen"),
    [
        ({}, [ONE, TWO], {}, "node-1"),
        ({}, [ONE, TWO], {"node-1": 1}, "node-2"),
        ({}, [node("node-1", ready=False), TWO], {}, "node-2"),
        ({}, [node("node-1", unschedulable=True), TWO], {"node-2": 9}, "node-2"),
        ({"nodeSelector": {"kubernetes.io/hostname": "node-2"}}, [ONE, TWO], {}, "node-2"),
    ],
)
def test_the_choice(spec, nodes, load, chosen):
    bind, told = scheduler.decide(pod(**spec), nodes, Counter(load), "now")
    assert bind.node == chosen
    assert told.message == f"Successfully assigned shop/web to {chosen}"


@pytest.mark.parametrize(
    ("spec", "nodes", "message"),
    [
        ({}, [], "no nodes available to schedule pods"),
        ({}, [node("a", ready=False)], "0/1 nodes are available: 1 node(s) were not ready."),
        (
            {"nodeSelector": {"disk": "ssd"}},
            [ONE, node("b", unschedulable=True)],
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
            "1 node(s) were unschedulable.",
        ),
    ],
)
def test_no_choice(spec, nodes, message):
    replace, told = scheduler.decide(pod(**spec), nodes, Counter(), "now")
    assert (told.type, told.reason, told.message) == ("Warning", "FailedScheduling", message)
    # Said once: the same answer again is no news.
    assert scheduler.decide(replace.object, nodes, Counter(), "now") == []


def test_pods_spread_and_waiting_ones_get_the_next_node(world):
    mesh = Settling(world, scheduler.CONTROLLER)
    for name in "abcd":
        world.create(pod(name))
    mesh.settle()
    assert not any(p["spec"].get("nodeName") for p in mesh.pods())
    assert {e["reason"] for e in world.cluster.store.objects(EVENTS)} == {"FailedScheduling"}
    world.create(node("node-1"))
    world.create(node("node-2"))
    mesh.settle()
    assert Counter(p["spec"]["nodeName"] for p in mesh.pods()) == {"node-1": 2, "node-2": 2}


def test_a_pod_that_names_its_node_is_left_alone(world):
    mesh = Settling(world, scheduler.CONTROLLER)
    world.create(node("node-1"))
    world.create(pod("a", nodeName="node-9"))
    world.create(pod("b", schedulerName="somebody-else"))
    mesh.settle()
    found = {p["metadata"]["name"]: p["spec"].get("nodeName") for p in mesh.pods()}
    assert found == {"a": "node-9", "b": None}
    assert world.cluster.store.get(PODS, "shop", "a")["status"]["phase"] == "Pending"
