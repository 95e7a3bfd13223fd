"""Endpoints of a cluster: priorities, localities, ejection, panic, limits, previous hosts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from ambient.api.service import LoadBalancing
from ambient.api.workload import Locality
from tests.unit.waypoint.sample import workload
from waypoint.core.cluster import Cluster
from waypoint.core.connection_pool import ConnectionPool, RetryBudget
from waypoint.core.hash_policy import HashPolicy
from waypoint.core.host import Target
from waypoint.core.load_balancer import Balancing, Distribute, LoadBalancer, LocalitySetting
from waypoint.core.outlier import OutlierDetection
from waypoint.core.traffic_policy import ClusterSettings

HERE = workload("waypoint", "10.0.0.99", "v1", locality=Locality("eu", "a"))
ANYHOW = LoadBalancing()


def target(number, place="eu/a"):
    ip = f"10.0.0.{number}"
    found = workload(f"r{number}", ip, "v1", locality=Locality(*place.split("/")))
    return Target(found, HostPort(ip, 9080))


def cluster(*targets, now_s=0.0, **settings):
    made = Cluster("reviews", random.Random(3).random)
    made.update(targets, ClusterSettings(**settings), HERE, ANYHOW, now_s)
    return made


def picked(made, count=400, now_s=0.0, **more):
    hosts = [made.pick(now_s, **more) for _ in range(count)]
    return Counter(host.target.workload.name for host in hosts if host is not None)


def fail(made, number, times=5, now_s=0.0):
    host = next(h for h in made.hosts.values() if h.target.workload.name == f"r{number}")
    return [made.failed(host, now_s) for _ in range(times)][-1]


ONE_ERROR = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)


def test_nobody_there():
    assert cluster().pick(0.0) is None


def test_an_ejected_endpoint_gets_nothing_until_it_returns():
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    assert fail(made, 1) is None  # ejected at the first; the others change nothing
    assert picked(made) == {"r2": 400}
    assert set(picked(made, now_s=40.0)) == {"r1", "r2"}


def test_all_ejected_is_no_healthy_upstream_unless_panic_is_configured():
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    fail(made, 1)
    fail(made, 2)
    assert made.pick(0.0) is None
    panic = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100, min_health_percent=60)
    made = cluster(target(1), target(2), outliers=panic)
    fail(made, 1)
    assert set(picked(made)) == {"r1", "r2"}


def test_responses_count_too():
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    host = made.pick(0.0)
    assert made.answered(host, 200, 0.0) is None
    assert made.answered(host, 500, 0.0) is not None


def test_failover_to_the_next_locality():
    setting = LoadBalancer(locality=LocalitySetting())
    made = cluster(
        target(1), target(2), target(3, "eu/b"), target(4, "us/a"), balancer=setting,
        outliers=ONE_ERROR,
    )  # fmt: skip
    assert set(picked(made)) == {"r1", "r2"}
    fail(made, 1)
    found = picked(made, 2000)
    assert found["r2"] / 2000 == pytest.approx(0.7, abs=0.05)  # half healthy, times 1.4
    assert found["r3"] / 2000 == pytest.approx(0.3, abs=0.05)
    fail(made, 2)
    assert set(picked(made)) == {"r3"}
    fail(made, 3)
    assert set(picked(made)) == {"r4"}


@pytest.mark.parametrize("balancing", [Balancing.LEAST_REQUEST, Balancing.RING_HASH])
def test_distribution(balancing):
    setting = LocalitySetting(distribute=(Distribute("eu/*", {"eu/a": 75, "eu/b": 25}),))
    balancer = LoadBalancer(
        balancing=balancing, locality=setting, hash_policy=HashPolicy(source_ip=True)
    )
    targets = [target(1), target(2), target(3, "eu/b"), target(4, "us/a")]
    made = cluster(*targets, balancer=balancer)
    draw = random.Random(9)
    hosts = [made.pick(0.0, draw.getrandbits(64)) for _ in range(4000)]
    found = Counter(host.target.workload.name for host in hosts)
    assert found["r3"] / 4000 == pytest.approx(0.25, abs=0.06)
    assert (found["r1"] + found["r2"]) / 4000 == pytest.approx(0.75, abs=0.06)
    assert "r4" not in found


def test_tried_endpoints_are_avoided_while_there_are_others():
    made = cluster(*(target(n) for n in range(1, 4)))
    tried = []
    for _ in range(3):
        host = made.pick(0.0, tried=tried)
        assert host.key not in tried
        tried.append(host.key)
    assert made.pick(0.0, tried=tried) is not None


def test_endpoints_that_refuse_the_client_are_never_chosen():
    made = cluster(*(target(n) for n in range(1, 30)))
    allowed = {target(7).key, target(8).key}
    assert set(picked(made, allowed=allowed)) == {"r7", "r8"}
    assert set(picked(made, allowed=allowed, tried=[target(7).key])) == {"r8"}
    assert set(picked(made, allowed=allowed, tried=list(allowed))) == {"r7", "r8"}
    assert made.pick(0.0, allowed=set()) is None


def test_retries_may_leave_the_locality():
    setting = LoadBalancer(locality=LocalitySetting())
    made = cluster(
        target(1), target(2), target(3, "us/a"), balancer=setting, outliers=OutlierDetection()
    )
    near = [target(1).key, target(2).key]
    assert set(picked(made, tried=near[:1], remote=True)) == {"r2"}
    assert set(picked(made, tried=near, remote=True)) == {"r3"}


def test_equal_hashes_stay_while_their_endpoint_is_there():
    balancer = LoadBalancer(balancing=Balancing.MAGLEV, size=1021)
    made = cluster(*(target(n) for n in range(1, 6)), balancer=balancer, outliers=ONE_ERROR)
    first = made.pick(0.0, 4711)
    assert all(made.pick(0.0, 4711) is first for _ in range(20))
    made.failed(first, 0.0)
    second = made.pick(0.0, 4711)
    assert second is not first
    assert made.pick(40.0, 4711) is first


def test_endpoints_keep_their_state_over_updates():
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    fail(made, 1)
    kept = made.hosts[target(2).key]
    settings = ClusterSettings(outliers=ONE_ERROR)
    left = made.update((target(2), target(3)), settings, HERE, ANYHOW, 1.0)
    assert [host.target.workload.name for host in left] == ["r1"]
    assert left[0].gone
    assert made.hosts[target(2).key] is kept
    assert made.detector.ejected == 0
    assert made.failed(left[0], 1.0) is None
    assert set(picked(made)) == {"r2", "r3"}


def test_an_endpoint_by_its_address():
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    assert made.host_at("10.0.0.2:9080", 0.0) is made.hosts[target(2).key]
    assert made.host_at("10.0.0.7:9080", 0.0) is None
    fail(made, 2)
    assert made.host_at("10.0.0.2:9080", 0.0) is None


def test_limits():
    made = cluster(target(1), pool=ConnectionPool(max_requests=1, max_retries=1))
    assert not made.full
    assert made.retry_room(0.0)
    made.requests = made.retries = 1
    assert made.full
    assert not made.retry_room(0.0)
    assert made.retry_room(0.0, 1)  # the request that has the place may use it again
    made = cluster(target(1), retry_budget=RetryBudget(percent=50, min_concurrency=2))
    made.retries = 2
    assert not made.retry_room(0.0)
    made.requests = 6
    assert made.retry_room(0.0)


def test_a_retry_budget_of_an_interval():
    budget = RetryBudget(percent=20, min_concurrency=0, interval_s=10, min_rate=1, rate_s=1)
    made = cluster(target(1), retry_budget=budget)
    host = made.pick(100.0)
    for _ in range(10):
        made.begun(host)
        made.over(host)
    for _ in range(2):
        assert made.retry_room(100.0)
        made.retried(100.0)
    assert not made.retry_room(100.0)  # 2 of 10 is the budget
    assert made.retry_room(102.0)  # one a second is always allowed
    made.retried(102.0)
    assert not made.retry_room(102.0)
    assert made.retry_room(120.0)  # all of that is forgotten
    assert made.counts.retries == 3


def test_a_retry_budget_keeps_its_least_concurrency():
    made = cluster(target(1), retry_budget=RetryBudget(percent=0, min_concurrency=1, interval_s=10))
    assert made.retry_room(1.0)
    made.retries = 1
    assert not made.retry_room(1.0)


steps = st.lists(
    st.tuples(st.sampled_from(["fail", "ok", "update", "pick"]), st.integers(1, 5)), max_size=60
)


@given(steps)
def test_a_pick_is_always_a_healthy_member(events):
    made = cluster(target(1), target(2), outliers=ONE_ERROR)
    now_s = 0.0
    for what, number in events:
        now_s += 3
        host = made.hosts.get(target(number).key)
        if what == "update":
            targets = tuple(target(n) for n in range(1, number + 1))
            made.update(targets, made.settings, HERE, ANYHOW, now_s)
        elif what == "fail" and host is not None:
            made.failed(host, now_s)
        elif what == "ok" and host is not None:
            made.answered(host, 200, now_s)
        else:
            found = made.pick(now_s, number)
            healthy = [h for h in made.hosts.values() if not h.monitor.ejected]
            assert found in healthy if healthy else found is None
