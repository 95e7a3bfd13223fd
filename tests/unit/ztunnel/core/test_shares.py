"""Which worker a pod belongs to."""

from ztunnel.core.shares import worker_of


def test_a_pod_stays_with_its_worker_and_the_workers_share_evenly():
    uids = [f"0a1b2c3d-0000-4000-8000-{number:012d}" for number in range(1000)]
    shares = [0, 0, 0, 0]
    for uid in uids:
        shares[worker_of(uid, 4)] += 1
    assert worker_of("0a1b2c3d", 4) == worker_of("0a1b2c3d", 4)
    assert min(shares) > 200
    assert {worker_of(uid, 1) for uid in uids} == {0}
