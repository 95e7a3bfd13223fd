"""Namespaces: furnished when new, emptied when deleted."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import SERVICE_ACCOUNTS
from ambientctl.local.controllers import namespaces
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import crd, pod, service, widget

SHOP = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
OTHER = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}


@pytest.fixture
def mesh(world):
    return Settling(world, namespaces.controller("PEM"))


def test_a_new_namespace_gets_an_account_and_the_ca(mesh):
    mesh.world.create(OTHER)
    mesh.settle()
    store = mesh.world.cluster.store
    assert store.get(SERVICE_ACCOUNTS, "other", "default")
    assert store.get(("", "configmaps"), "other", "kube-root-ca.crt")["data"] == {"ca.crt": "PEM"}


def test_the_account_comes_back(mesh):
    mesh.world.create(OTHER)
    mesh.settle()
    store = mesh.world.cluster.store
    store.remove(SERVICE_ACCOUNTS, "other", "default")
    mesh.settle()
    assert store.get(SERVICE_ACCOUNTS, "other", "default")


def test_a_deleted_namespace_waits_for_its_last_pod(mesh):
    mesh.world.create(crd())
    mesh.world.create(widget(color="red"))
    mesh.world.create(service())
    made = mesh.world.create(pod(nodeName="node-1"))
    mesh.world.delete(SHOP)
    mesh.settle()
    store = mesh.world.cluster.store
    assert store.objects(("", "services"), "shop") == []
    assert store.objects(("example.com", "widgets"), "shop") == []
    assert mesh.world.find(made)["metadata"]["deletionTimestamp"]
    assert mesh.world.find(SHOP)
    mesh.finish("web")
    mesh.settle()
    assert mesh.world.find(SHOP) is None
