"""Priorities and weights by where endpoints stand."""

from __future__ import annotations

import pytest

from ambient.api.service import LoadBalancing, Mode, Scope
from ambient.api.workload import Locality
from tests.unit.waypoint.sample import workload
from waypoint.core.load_balancer import Distribute, LocalitySetting
from waypoint.core.locality import matches, standings


def at(place, name="x", **more):
    return workload(name, "10.0.0.1", "v1", locality=Locality(*place.split("/")), **more)


OWN = at("eu/a/1", node="n1", network="net")
PLACES = ["eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1"]


def priorities(setting, *, outliers=True, preference=None, own=OWN, places=PLACES):
    workloads = [at(place, node="n1", network="net") for place in places]
    found = standings(workloads, own, setting, preference or LoadBalancing(), outliers=outliers)
    return [None if one is None else one.priority for one in found]


PREFER_CLOSE = LoadBalancing((Scope.NETWORK, Scope.REGION, Scope.ZONE), Mode.FAILOVER)


@pytest.mark.parametrize(
    ("setting", "more", "want"),
    [
        (None, {}, [0, 1, 2, 3, 3]),  # the mesh's default
        (None, {"outliers": False}, [0, 0, 0, 0, 0]),
        (LocalitySetting(), {}, [0, 1, 2, 3, 3]),
        (LocalitySetting(), {"outliers": False}, [0, 0, 0, 0, 0]),
        (LocalitySetting(enabled=False), {}, [0, 0, 0, 0, 0]),
        (LocalitySetting(), {"own": None}, [0, 0, 0, 0, 0]),
        (LocalitySetting(failover={"eu": "asia"}), {}, [0, 1, 2, 4, 3]),
        (LocalitySetting(), {"places": ["eu/b/1", "us/a/1"]}, [0, 1]),  # no gaps
        (None, {"preference": PREFER_CLOSE}, [0, 0, 1, 2, 2]),
        (LocalitySetting(), {"preference": PREFER_CLOSE}, [0, 1, 2, 3, 3]),
        (
            LocalitySetting(failover_priority=("topology.kubernetes.io/region",)),
            {},
            [0, 0, 0, 1, 1],
        ),
        (
            LocalitySetting(failover_priority=("topology.kubernetes.io/zone=b", "app")),
            {},
            [1, 1, 0, 1, 1],
        ),
    ],
)
def test_priorities(setting, more, want):
    assert priorities(setting, **more) == want


@pytest.mark.parametrize(
    ("rule", "preference", "mesh", "want"),
    [
        (None, None, LocalitySetting(enabled=False), [0, 0, 0, 0, 0]),
        (None, None, LocalitySetting(failover={"eu": "asia"}), [0, 1, 2, 4, 3]),
        (LocalitySetting(), None, LocalitySetting(enabled=False), [0, 1, 2, 3, 3]),
        (None, PREFER_CLOSE, LocalitySetting(enabled=False), [0, 0, 1, 2, 2]),
        (
            None,
            None,
            LocalitySetting(distribute=(Distribute("eu/*", {"eu/b/*": 100}),)),
            [None, None, 0, None, None],
        ),
    ],
)
def test_the_mesh_says_it_where_neither_rule_nor_service_does(rule, preference, mesh, want):
    workloads = [at(place, node="n1", network="net") for place in PLACES]
    found = standings(workloads, OWN, rule, preference or LoadBalancing(), outliers=True, mesh=mesh)
    assert [None if one is None else one.priority for one in found] == want


def test_labels_count_while_all_in_front_of_them_are_equal():
    setting = LocalitySetting(failover_priority=("rack", "version"))
    own = at("eu/a/1", labels={"rack": "r1", "version": "v1"})
    others = [
        at("eu/a/1", labels={"rack": "r1", "version": "v1"}),
        at("eu/a/1", labels={"rack": "r1", "version": "v2"}),
        at("eu/a/1", labels={"rack": "r2", "version": "v1"}),
    ]
    found = standings(others, own, setting, LoadBalancing(), outliers=True)
    assert [one.priority for one in found] == [0, 1, 2]


def test_strict_preference_leaves_the_others_out():
    strict = LoadBalancing((Scope.ZONE,), Mode.STRICT)
    assert priorities(None, preference=strict) == [0, 0, None, 0, 0]


def test_distribution_gives_localities_weights():
    setting = LocalitySetting(
        distribute=(
            Distribute("us/*", {"us/*": 100}),
            Distribute("eu/a/*", {"eu/a/1": 80, "eu/b/*": 20}),
        )
    )
    workloads = [at(place) for place in (*PLACES, "eu/b/2")]
    found = standings(workloads, OWN, setting, LoadBalancing(), outliers=False)
    assert [None if one is None else one.weight for one in found] == [80, None, 10, None, None, 10]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", True),
        ("eu", True),
        ("eu/*", True),
        ("eu/a", True),
        ("eu/a/*", True),
        ("eu/a/1", True),
        ("eu/b/*", False),
        ("us/*", False),
    ],
)
def test_patterns(pattern, found):
    assert matches(pattern, Locality("eu", "a", "1")) is found
