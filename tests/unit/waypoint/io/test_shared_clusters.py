"""Clusters in shared memory: the workers of a waypoint count, eject and take back as one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import pytest

from ambient.api.service import LoadBalancing
from tests.unit.waypoint.core.test_cluster import HERE, target
from waypoint.core.cluster import Cluster
from waypoint.core.connection_pool import ConnectionPool, RetryBudget
from waypoint.core.outlier import Cause, OutlierDetection
from waypoint.core.peers import Use
from waypoint.core.traffic_policy import ClusterSettings
from waypoint.io import shared_clusters
from waypoint.io.shared_clusters import SharedClusters

KEY = "shop/reviews", 9080, ""
OUTLIERS = OutlierDetection(consecutive_5xx=4, max_ejection_percent=100)
LIMITS = ConnectionPool(max_connections=2, max_pending=2, max_requests=2, max_retries=2)
TARGETS = target(1), target(2)
ANYHOW = LoadBalancing()
TRIES = 400
ENDPOINT = TARGETS[0].key


@pytest.fixture
def table():
    fd = shared_clusters.create(3)
    yield fd
    os.close(fd)


@pytest.fixture
async def workers(table):
    return [SharedClusters(table, number) for number in range(3)]


def cluster(worker, *targets, now_s=0.0, **settings):
    made = Cluster("reviews", random.Random(3).random, lambda: worker.join(KEY))
    made.update(targets or TARGETS, ClusterSettings(**settings), HERE, ANYHOW, now_s)
    return made


def host(of, number=1):
    return next(h for h in of.hosts.values() if h.target.workload.name == f"r{number}")


def names(of, now_s=0.0):
    picked = (of.pick(now_s) for _ in range(60))
    return {one.target.workload.name for one in picked if one is not None}


async def test_limits_hold_for_all_workers_together(workers):
    one, other, idle = (cluster(worker, pool=LIMITS) for worker in workers)
    one.begun(host(one))
    assert not other.full
    other.begun(host(other))
    one.count(pending=1, connections=2, retries=1)
    other.count(pending=1, retries=1)
    for each in (one, other, idle):
        assert (each.full, each.queue_full, each.connected, each.retry_room(0.0)) == (
            (True,) * 3 + (False,)
        )
    assert (one.requests, one.connections, other.connections) == (1, 2, 0)  # each one's own
    one.over(host(one))
    one.count(pending=-1, connections=-1, retries=-1)
    assert [idle.full, idle.queue_full, idle.connected] == [False] * 3
    assert idle.retry_room(0.0)


async def test_a_retry_budget_is_of_all_requests(workers):
    budget = RetryBudget(percent=50.0, min_concurrency=1)
    one, other, _ = (cluster(worker, retry_budget=budget) for worker in workers)
    one.count(retries=1)
    assert not other.retry_room(0.0)
    for _ in range(4):
        one.begun(host(one))
    assert other.retry_room(0.0)


async def test_what_a_worker_that_has_ended_had_under_way_is_gone(table, workers):
    one, other, _ = (cluster(worker, pool=LIMITS) for worker in workers)
    one.begun(host(one))
    one.begun(host(one))
    assert other.full
    shared_clusters.forget(table, 0)
    assert not other.full
    assert cluster(SharedClusters(table, 0), pool=LIMITS).requests == 0


async def test_errors_at_different_workers_are_consecutive(workers):
    one, other, idle = (cluster(worker, outliers=OUTLIERS) for worker in workers)
    assert names(idle) == {"r1", "r2"}
    causes = [each.answered(host(each), 500, 0.0) for each in (one, other, idle, one)]
    assert causes == [None, None, None, Cause.SERVER_ERRORS]
    assert [names(each) for each in (one, other, idle)] == [{"r2"}] * 3
    assert [each.counts.ejections for each in (one, other, idle)] == [1, 0, 0]
    assert [each.ejected for each in (one, other, idle)] == [1, 0, 0]  # a sum over workers is 1
    assert names(idle, 40.0) == {"r1", "r2"}
    assert names(one, 40.0) == {"r1", "r2"}


async def test_a_good_answer_to_any_worker_ends_the_series(workers):
    one, other, _ = (cluster(worker, outliers=OUTLIERS) for worker in workers)
    for _ in range(3):
        one.answered(host(one), 500, 0.0)
    other.answered(host(other), 200, 0.0)
    assert one.answered(host(one), 500, 0.0) is None


async def test_no_more_are_ejected_than_the_percentage_of_one_waypoint(workers):
    few = OutlierDetection(consecutive_5xx=1, max_ejection_percent=50)
    one, other, _ = (cluster(worker, outliers=few) for worker in workers)
    assert one.failed(host(one, 1), 0.0) is not None
    assert other.failed(host(other, 2), 0.0) is None


def ejections(clusters):
    """When r1, which fails as soon as it is used, is used again; sweeps are looked for by all."""
    found, now_s = [], 3.0
    for _ in range(4):
        clusters[0].failed(host(clusters[0]), now_s)
        while {"r1"} - set.intersection(*(names(each, now_s) for each in clusters)):
            now_s += 5.0
        found.append(now_s)
        now_s += 25.0  # its good behaviour is rewarded
    return found


async def test_sweeps_are_not_doubled(workers):
    quick = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
    together = [cluster(worker, outliers=quick) for worker in workers]
    alone = Cluster("reviews", random.Random(3).random)
    alone.update(TARGETS, ClusterSettings(outliers=quick), HERE, ANYHOW, 0.0)
    assert ejections(together) == ejections([alone])


async def test_a_new_worker_knows_who_is_ejected(table, workers):
    one, other, idle = (cluster(worker, outliers=OUTLIERS) for worker in workers)
    for _ in range(4):
        one.failed(host(one), 5.0)
    shared_clusters.forget(table, 0)
    again = cluster(SharedClusters(table, 0), outliers=OUTLIERS)
    assert names(again, 6.0) == names(other, 6.0) == {"r2"}
    shared_clusters.forget(table, 0)
    for each in (other, idle):
        each.leave()
    assert names(cluster(workers[2], outliers=OUTLIERS), 6.0) == {
        "r1",
        "r2",
    }  # nobody knows any more


async def test_an_ejected_endpoint_that_leaves_makes_room(workers):
    few = OutlierDetection(consecutive_5xx=1, max_ejection_percent=50)
    one, other, _ = (cluster(worker, outliers=few) for worker in workers)
    one.failed(host(one, 1), 0.0)
    names(other)
    for each in (one, other):
        each.update((target(2), target(3)), ClusterSettings(outliers=few), HERE, ANYHOW, 1.0)
    assert other.failed(host(other, 2), 1.0) is not None
    assert names(one, 1.0) == {"r3"}


async def test_other_settings_begin_anew(workers):
    one, other, _ = (cluster(worker, outliers=OUTLIERS) for worker in workers)
    for _ in range(4):
        one.failed(host(one), 0.0)
    strict = ClusterSettings(outliers=OutlierDetection(consecutive_5xx=1, max_ejection_percent=100))
    for each in (one, other):
        each.update(TARGETS, strict, HERE, ANYHOW, 1.0)
    assert names(one, 1.0) == names(other, 1.0) == {"r1", "r2"}
    other.failed(host(other), 1.0)
    assert names(one, 1.0) == {"r2"}


async def test_without_limits_nothing_is_shared(workers):
    one = cluster(workers[0], outliers=OUTLIERS)
    assert workers[0].holds(one._peers._record, 0)
    record = one._peers._record
    one.update(TARGETS, ClusterSettings(), HERE, ANYHOW, 1.0)
    assert not workers[0].holds(record, 0)
    assert not cluster(workers[0])._peers


async def test_where_there_is_no_place_a_worker_counts_for_itself(workers, monkeypatch):
    monkeypatch.setattr(shared_clusters, "WINDOW", 1)
    held = []
    while (found := workers[0].hold(f"{len(held)}")) is not None:
        held.append(found)
    beaten = f"{len(held)}"
    for number in held:
        workers[0].release(number)
    assert workers[1].hold(beaten) in held
    full = Cluster("reviews", random.Random(3).random, lambda: None)
    full.update(TARGETS, ClusterSettings(pool=LIMITS, outliers=OUTLIERS), HERE, ANYHOW, 0.0)
    full.begun(host(full))
    full.failed(host(full), 0.0)
    assert not full.full


COUNTING = f"""
import sys
import trio
from waypoint.core.outlier import Detector, Monitor, OutlierDetection
from waypoint.core.peers import Use
from waypoint.io.shared_clusters import SharedClusters

async def main():
    peers = SharedClusters(int(sys.argv[1]), int(sys.argv[2])).join({KEY})
    detector, monitor = Detector(OutlierDetection(max_ejection_percent=100), 1.0), Monitor()
    peers.publish(Use(requests=1))
    print("began", flush=True)
    sys.stdin.read()
    ejections = 0
    for _ in range({TRIES}):
        with peers.held(detector, {{{ENDPOINT}: monitor}}):
            if detector.response(monitor, 500, 2, 1.0) is not None:
                ejections += 1
                peers.changed()
    print(ejections, flush=True)

trio.run(main)
"""


@pytest.fixture
def processes(table):
    """Two other workers."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(table), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[table],
        )
        for number in (0, 1)
    ]
    yield running
    for one in running:
        one.kill()
        one.wait()
        one.stdout.close()


async def test_processes_eject_once_and_a_killed_one_leaves_nothing(table, workers, processes):
    for one in processes:
        assert one.stdout.readline() == b"began\n"
    ours = cluster(workers[2], outliers=OUTLIERS)
    assert ours._peers.others() == Use(requests=2)
    for one in processes:
        one.stdin.close()  # they begin together
    assert sum(int(one.stdout.readline()) for one in processes) == 1
    assert names(ours, 1.0) == {"r2"}
    for number, one in enumerate(processes):
        one.send_signal(signal.SIGKILL)
        one.wait()
        shared_clusters.forget(table, number)
        assert ours._peers.others() == Use(requests=1 - number)
