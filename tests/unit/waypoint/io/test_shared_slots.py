"""Token buckets in shared memory: several processes count as one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from waypoint.core.token_bucket import Bucket, take
from waypoint.io import shared_slots
from waypoint.io.shared_slots import SLOTS, WINDOW, SharedSlots

MOST, PROCESSES, TRIES = 500, 3, 400
COUNTING = f"""
import sys
from waypoint.core.token_bucket import Bucket, take
from waypoint.io.shared_slots import SharedSlots
slots, bucket = SharedSlots(int(sys.argv[1])), Bucket({MOST}, 1, 3600.0)
sys.stdin.read()
print(sum(take(slots, b"k" * 16, bucket, 1, 100.0)[0] for _ in range({TRIES})))
"""


@pytest.fixture
def table():
    fd = shared_slots.create()
    yield fd
    os.close(fd)


def test_processes_share_one_bucket_exactly(table):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(table)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[table],
        )
        for _ in range(PROCESSES)
    ]
    for one in running:
        one.stdin.close()  # they begin together
    passed = [int(one.stdout.read()) for one in running]
    for one in running:
        one.stdout.close()
        assert one.wait() == 0
    assert sum(passed) == MOST < PROCESSES * TRIES


def test_one_process_sees_what_another_has_taken(table):
    bucket, key = Bucket(1, 1, 10.0), b"a" * 16
    assert take(SharedSlots(table), key, bucket, 1, 5.0) == (True, 15.0)
    assert take(SharedSlots(table), key, bucket, 1, 6.0) == (False, 15.0)
    assert take(SharedSlots(), key, bucket, 1, 6.0) == (True, 16.0)


def keys(count, first=7):
    """Keys that have to share a window."""
    return [first.to_bytes(4, "big") + number.to_bytes(12, "big") for number in range(count)]


def test_a_window_that_is_full_loses_who_is_full_first():
    slots, names = SharedSlots(), keys(WINDOW + 1)
    for number, key in enumerate(names):
        slots.change(key, lambda _, at=100.0 + number: at, 1.0)
    left = [slots.change(key, lambda at: at, 1.0) for key in names]
    assert left == [0.0] + [101.0 + number for number in range(WINDOW)]


def test_slots_whose_time_is_over_are_free():
    slots, names = SharedSlots(), keys(2 * WINDOW, SLOTS - 1)  # the last window reaches beyond
    for key in names[:WINDOW]:
        slots.change(key, lambda _: 10.0, 1.0)
    for key in names[WINDOW:]:
        assert slots.change(key, lambda at: at + 30.0, 20.0) == 30.0
    assert [slots.change(key, lambda at: at, 20.0) for key in names[WINDOW:]] == [30.0] * WINDOW


def test_what_is_full_takes_no_slot():
    slots, (key,) = SharedSlots(), keys(1)
    assert slots.change(key, lambda at: at, 5.0) == 0.0
    assert slots.change(key, lambda _: 4.0, 5.0) == 4.0
    assert slots.change(key, lambda at: at, 5.0) == 0.0
