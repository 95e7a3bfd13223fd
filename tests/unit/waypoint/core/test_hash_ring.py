"""Ketama: points by weight, and who is next on the ring."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.hash_ring import HashRing


def test_points_are_hashes_of_address_and_number():
    ring = HashRing(["10.0.0.1:80", "10.0.0.2:80"], [1, 1], 2)
    points = {xxhash.xxh64_intdigest(f"10.0.0.{n}:80_0".encode()): n - 1 for n in (1, 2)}
    low, high = sorted(points)
    assert len(ring) == 2
    assert [ring.pick(v) for v in (0, low, low + 1, high, high + 1)] == [
        points[low],
        points[low],
        points[high],
        points[high],
        points[low],
    ]
    assert ring.pick(low, 1) == points[high]


@pytest.mark.parametrize(
    ("weights", "minimum", "size"),
    [([1, 1], 1024, 1024), ([1, 3], 1024, 1024), ([1, 1, 1], 1024, 1026), ([1, 1], 1, 2)],
)
def test_size(weights, minimum, size):
    assert len(HashRing([str(n) for n in range(len(weights))], weights, minimum)) == size


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.integers(0, 2**64 - 1))
def test_every_hash_has_an_endpoint(weights, value):
    ring = HashRing([str(n) for n in range(len(weights))], weights, 64)
    assert 0 <= ring.pick(value) < len(weights)
