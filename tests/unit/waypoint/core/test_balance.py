"""Each algorithm over equal, weighted, busy and warming endpoints."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address

import pytest

from ambient.api.address import HostPort
from ambient.api.workload import Workload
from waypoint.core.balance import Slate
from waypoint.core.hash_policy import hash64
from waypoint.core.host import Host, Target
from waypoint.core.load_balancer import Balancing, LoadBalancer, Warmup


def host(number, *, added_s=0.0, active=0):
    ip = f"10.0.0.{number}"
    target = Target(
        Workload(uid=ip, name=ip, namespace="shop", addresses=(ip_address(ip),)),
        HostPort(ip, 80),
    )
    made = Host(target, added_s)
    made.active = active
    return made


def slate(hosts, weights=None, clock=lambda: 1000.0, **settings):
    given = weights or [1] * len(hosts)
    return Slate(hosts, given, LoadBalancer(**settings), random.Random(5).random, clock)


def shares(made, count=3000):
    found = Counter(made.pick(None, 0).target.workload.name[-1] for _ in range(count))
    return {name: number / count for name, number in found.items()}


SIMPLE = [Balancing.ROUND_ROBIN, Balancing.LEAST_REQUEST, Balancing.RANDOM]


@pytest.mark.parametrize("balancing", SIMPLE)
def test_equal_endpoints_get_equal_parts(balancing):
    found = shares(slate([host(1), host(2), host(3)], balancing=balancing))
    assert found == pytest.approx({"1": 1 / 3, "2": 1 / 3, "3": 1 / 3}, abs=0.05)


@pytest.mark.parametrize("balancing", SIMPLE[:2])
def test_weights_count(balancing):
    found = shares(slate([host(1), host(2)], [1, 3], balancing=balancing))
    assert found == pytest.approx({"1": 0.25, "2": 0.75}, abs=0.01)


def test_random_does_not_look_at_weights():
    found = shares(slate([host(1), host(2)], [1, 3], balancing=Balancing.RANDOM))
    assert found["1"] == pytest.approx(0.5, abs=0.05)


def test_round_robin_goes_round():
    made = slate([host(1), host(2), host(3)], balancing=Balancing.ROUND_ROBIN)
    picks = [made.pick(None, 0).key for _ in range(6)]
    assert picks[:3] == picks[3:]
    assert len(set(picks)) == 3


def test_the_less_busy_of_two_is_preferred():
    found = shares(slate([host(1, active=9), host(2)], balancing=Balancing.LEAST_REQUEST))
    assert found["1"] == pytest.approx(0.25, abs=0.03)  # both draws have to fall on it


def test_with_weights_a_busy_endpoint_gets_less():
    made = slate([host(1, active=3), host(2)], [2, 1], balancing=Balancing.LEAST_REQUEST)
    found = shares(made)
    assert found == pytest.approx({"1": 1 / 3, "2": 2 / 3}, abs=0.02)


@pytest.mark.parametrize("balancing", SIMPLE[:2])
def test_a_new_endpoint_warms_up(balancing):
    now = 1000.0
    hosts = [host(1), host(2, added_s=970.0)]
    warmup = Warmup(duration_s=60)
    made = slate(hosts, balancing=balancing, warmup=warmup, clock=lambda: now)
    assert shares(made)["2"] == pytest.approx(1 / 3, abs=0.02)  # half of a weight: 0.5 of 1.5
    now = 1100.0
    assert shares(made)["2"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("balancing", [Balancing.RING_HASH, Balancing.MAGLEV])
def test_equal_hashes_reach_the_same_endpoint(balancing):
    size = {Balancing.RING_HASH: 1024, Balancing.MAGLEV: 1021}[balancing]
    hosts = [host(n) for n in range(1, 6)]
    made = slate(hosts, balancing=balancing, size=size)
    keys = [hash64(f"user-{n}") for n in range(500)]
    first = [made.pick(key, 0) for key in keys]
    assert first == [made.pick(key, 0) for key in keys]
    assert min(Counter(h.key for h in first).values()) > 40
    fewer = slate(hosts[:4], balancing=balancing, size=size)
    moved = sum(h is not fewer.pick(key, 0) for h, key in zip(first, keys, strict=True))
    lost = sum(h is hosts[4] for h in first)
    assert lost <= moved < lost + 100
    assert {made.pick(keys[0], attempt) for attempt in range(40)} > {first[0]}
    assert len({made.pick(None, 0) for _ in range(50)}) > 1  # nothing to hash: chance
