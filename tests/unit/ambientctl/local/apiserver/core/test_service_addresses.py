"""Cluster addresses: given, asked for, and refused."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.status import ApiError
from tests.unit.ambientctl.local.worlds import service


def address(world, name, **spec):
    return world.create(service(name, **spec))["spec"].get("clusterIP")


def test_every_service_gets_an_address_of_its_own(world):
    first, second = address(world, "a"), address(world, "b")
    assert first != second
    assert first.startswith("10.96.")


def test_a_headless_and_an_external_service_get_none(world):
    assert address(world, "a", clusterIP="None") == "None"
    assert address(world, "b", type="ExternalName", externalName="x.y", ports=[]) is None


def test_a_fixed_address_and_its_second_user(world):
    assert address(world, "dns", clusterIP="10.96.0.10") == "10.96.0.10"
    with pytest.raises(ApiError, match="provided IP is already allocated"):
        address(world, "other", clusterIP="10.96.0.10")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [("10.97.0.1", "not in the valid range"), ("nonsense", "must be a valid IP address")],
)
def test_an_impossible_address(world, wanted, text):
    with pytest.raises(ApiError, match=text):
        address(world, "a", clusterIP=wanted)


def test_a_deleted_service_gives_its_address_back(world):
    address(world, "a", clusterIP="10.96.0.10")
    world.delete(service("a"))
    assert address(world, "b", clusterIP="10.96.0.10") == "10.96.0.10"


def test_node_ports(world):
    first = world.create(service("a", type="NodePort"))["spec"]["ports"][0]["nodePort"]
    second = world.create(service("b", type="LoadBalancer"))["spec"]["ports"][0]["nodePort"]
    assert {first, second} == {30000, 30001}
    with pytest.raises(ApiError, match="provided port is already allocated"):
        world.create(service("c", type="NodePort", ports=[{"port": 1, "nodePort": first}]))
