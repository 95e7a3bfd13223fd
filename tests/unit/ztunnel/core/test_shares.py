"""How many workers, and which one a pod belongs to."""

import pytest

from ztunnel.core.shares import worker_count, worker_of


@pytest.mark.parametrize(
    ("wanted", "count"),
    [("1", 1), (" 3 ", 3), ("0", 8), ("50%", 4), ("1%", 1), ("0%", 1), ("30%", 3), ("200%", 16)],
)
def test_a_number_every_core_or_a_part_of_them(wanted, count):
    assert worker_count(wanted, cores=8) == count


@pytest.mark.parametrize("wanted", ["", "-1", "all", "2.5", "%", "50%%", "50 %", "²"])
def test_anything_else_is_named(wanted):
    with pytest.raises(ValueError, match="expected a whole number or a percentage"):
        worker_count(wanted, cores=8)


def test_a_pod_stays_with_its_worker_and_the_workers_share_evenly():
    uids = [f"0a1b2c3d-0000-4000-8000-{number:012d}" for number in range(1000)]
    shares = [0, 0, 0, 0]
    for uid in uids:
        shares[worker_of(uid, 4)] += 1
    assert worker_of("0a1b2c3d", 4) == worker_of("0a1b2c3d", 4)
    assert min(shares) > 200
    assert {worker_of(uid, 1) for uid in uids} == {0}
