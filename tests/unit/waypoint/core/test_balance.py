"""Which endpoint: health, subsets, ports and load."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ambient.api.service import HealthPolicy, LoadBalancing, Port
from ambient.api.workload import WorkloadStatus
from tests.unit.waypoint.sample import REVIEWS, mesh, service, workload
from waypoint.core.balance import Balancer, candidates
from waypoint.core.destination_rule import Balancing, Subset


def names(state, subset=None, of=None, port=9080):
    return [t.workload.name for t in candidates(state, of or service(), port, subset)]


def test_candidates_are_healthy_in_the_subset_and_serve_the_port():
    sick = workload("sick", "10.0.0.7", "v1", status=WorkloadStatus.UNHEALTHY)
    bare = workload("bare", "10.0.0.8", "v1", addresses=())
    state = mesh(sick, bare)
    assert names(state) == ["reviews-v1", "reviews-v2"]
    assert names(state, Subset({"version": "v2"})) == ["reviews-v2"]
    assert names(state, Subset({})) == ["reviews-v1", "reviews-v2"]
    assert names(state, port=1) == []
    tolerant = service(load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
    assert "sick" in names(state, of=tolerant)


def test_a_named_target_port_is_each_workloads_own():
    state = mesh(workload("named", "10.0.0.7", "v3", services={REVIEWS: (Port(9080, 7777),)}))
    found = candidates(state, service(ports=(Port(9080, 0),)), 9080, Subset({"version": "v3"}))
    assert [str(t.address) for t in found] == ["10.0.0.7:7777"]


def choices(balancing, count, active=lambda key: 0, state=None):
    balancer = Balancer(random.Random(3).random, active)
    found = candidates(state or mesh(), service(), 9080, None)
    return Counter(balancer.choose(found, balancing, group="g").workload.name for _ in range(count))


def test_round_robin_is_even():
    assert choices(Balancing.ROUND_ROBIN, 10) == {"reviews-v1": 5, "reviews-v2": 5}


def test_random_follows_the_weights():
    heavy = workload("reviews-v2", "10.0.0.2", "v2", capacity=3)
    found = choices(Balancing.RANDOM, 2000, state=mesh(heavy))
    assert 1400 < found["reviews-v2"] < 1600


def test_the_less_busy_of_two_is_preferred():
    busy = {("Kubernetes//Pod/shop/reviews-v1", 9080): 5}
    assert choices(Balancing.LEAST_REQUEST, 50, lambda key: busy.get(key, 0)) == {"reviews-v2": 50}


@pytest.mark.parametrize("balancing", list(Balancing))
def test_endpoints_are_tried_once(balancing):
    balancer = Balancer(random.Random(3).random, lambda key: 0)
    found = candidates(mesh(), service(), 9080, None)
    tried = set()
    while (target := balancer.choose(found, balancing, group="g", tried=tried)) is not None:
        assert target.key not in tried
        tried.add(target.key)
    assert len(tried) == 2
