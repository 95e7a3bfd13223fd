"""Garbage collection in the three ways of deleting an owner."""

from __future__ import annotations

import pytest

from ambientctl.local.controllers import garbage
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import node, pod, service


@pytest.fixture
def mesh(world):
    return Settling(world, garbage.controller(), garbage.POD_CONTROLLER)


def child_of(*owners, **spec):
    made = pod("child", **spec)
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": o["apiVersion"], "kind": o["kind"],
         "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        for o in owners
    ]  # fmt: skip
    return made


def test_a_dependent_goes_after_its_last_owner(mesh):
    first, second = mesh.world.create(service("a")), mesh.world.create(service("b"))
    child = mesh.world.create(child_of(first, second))
    mesh.world.delete(first)
    mesh.settle()
    assert mesh.world.find(child)
    mesh.world.delete(second)
    mesh.settle()
    assert mesh.world.find(child) is None


def test_a_dependent_of_nobody_goes_at_once(mesh):
    gone = mesh.world.create(service("a"))
    mesh.world.delete(gone)
    child = mesh.world.create(child_of(gone))
    mesh.settle()
    assert mesh.world.find(child) is None


def test_an_owner_of_the_same_name_is_not_the_same(mesh):
    first = mesh.world.create(service("a"))
    child = mesh.world.create(child_of(first))
    mesh.settle()
    mesh.world.delete(first)
    mesh.world.create(service("a"))
    mesh.settle()
    assert mesh.world.find(child) is None


def test_in_the_foreground_the_owner_goes_last(mesh):
    owner = mesh.world.create(service("a"))
    child = mesh.world.create(child_of(owner, nodeName="node-1"))
    mesh.world.delete(owner, policy="Foreground")
    mesh.settle()
    assert mesh.world.find(child)["metadata"]["deletionTimestamp"]
    assert mesh.world.find(owner)["metadata"]["finalizers"] == ["foregroundDeletion"]
    mesh.finish("child")
    mesh.settle()
    assert mesh.world.find(owner) is None


def test_orphans_stay_and_forget_their_owner(mesh):
    owner = mesh.world.create(service("a"))
    child = mesh.world.create(child_of(owner))
    mesh.world.delete(owner, policy="Orphan")
    mesh.settle()
    assert mesh.world.find(owner) is None
    assert mesh.world.find(child)["metadata"]["ownerReferences"] == []


def test_pods_go_with_their_node(mesh):
    home = mesh.world.create(node("node-1"))
    made = mesh.world.create(pod(nodeName="node-1"))
    mesh.world.delete(home)
    mesh.settle()
    assert mesh.world.find(made) is None
