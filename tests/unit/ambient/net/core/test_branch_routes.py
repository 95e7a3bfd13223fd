"""Which routing rules keep probes on the node."""

from ipaddress import ip_address

import pytest

from ambient.net.core.branch_routes import OURS, HostRoute, PolicyRule, change

POD, OTHER = ip_address("10.0.1.5"), ip_address("10.0.1.6")
POD6 = ip_address("2001:db8::5")
STEER = PolicyRule(4, 10, 101, "vlan5", protocol=0)
ROUTE = HostRoute(POD, 101, "vlan5")
TO_POD = PolicyRule(4, 512, 101, to=POD)
ANSWERS = PolicyRule(4, 9, 255, "vlan5")


@pytest.mark.parametrize(
    ("present", "routes", "add"),
    [
        ([STEER], [ROUTE], {TO_POD, ANSWERS}),
        ([STEER, TO_POD, ANSWERS], [ROUTE], set()),
        ([STEER, TO_POD], [ROUTE], {ANSWERS}),
        # Istio's agent made the same ones.
        ([STEER, TO_POD._replace(protocol=0), ANSWERS._replace(protocol=0)], [ROUTE], set()),
        ([], [ROUTE], set()),  # nothing steers the pod's traffic
        ([STEER], [], set()),  # nor has that table the pod
        ([STEER], [ROUTE._replace(device="vlan6")], set()),
        ([STEER._replace(table=102)], [ROUTE], set()),
        ([STEER._replace(table=254)], [ROUTE._replace(table=254)], set()),
        ([STEER], [ROUTE._replace(ip=OTHER)], set()),  # not a pod of the mesh
        ([STEER._replace(version=6)], [ROUTE], set()),
        (
            [STEER._replace(version=6)],
            [ROUTE._replace(ip=POD6)],
            {TO_POD._replace(version=6, to=POD6), ANSWERS._replace(version=6)},
        ),
        ([STEER._replace(priority=0)], [ROUTE], {TO_POD, ANSWERS._replace(priority=0)}),
        ([STEER, STEER._replace(priority=5)], [ROUTE], {TO_POD, ANSWERS._replace(priority=4)}),
    ],
)
def test_rules_that_are_missing(present, routes, add):
    assert change(present, routes, {POD, POD6}) == (add, set())


def test_ours_go_with_the_pod_and_nobody_elses():
    theirs = TO_POD._replace(protocol=3)
    assert TO_POD.protocol == OURS
    assert change([STEER, TO_POD, ANSWERS, theirs], [ROUTE], ()) == (set(), {TO_POD, ANSWERS})
    assert not change([STEER, theirs], [ROUTE], ())
