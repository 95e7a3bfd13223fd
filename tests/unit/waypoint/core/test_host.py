"""Which endpoints there are: health, subsets and ports."""

from __future__ import annotations

from ambient.api.service import HealthPolicy, LoadBalancing, Port
from ambient.api.workload import WorkloadStatus
from tests.unit.waypoint.sample import REVIEWS, mesh, service, workload
from waypoint.core.destination_rule import Subset
from waypoint.core.host import candidates


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
