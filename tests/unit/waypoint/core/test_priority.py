"""Spill-over and panic, with Envoy's numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.priority import Count, loads, locality_weight


@pytest.mark.parametrize(
    ("counts", "panic", "want"),
    [
        ([(2, 2)], 0, [100]),
        ([(1, 2)], 0, [100]),
        ([(0, 2)], 0, [0]),
        ([], 0, []),
        ([(5, 5), (5, 5)], 0, [100, 0]),
        ([(72, 100), (100, 100)], 0, [100, 0]),  # 72 % x 1.4 is enough
        ([(50, 100), (100, 100)], 0, [70, 30]),
        ([(0, 100), (100, 100)], 0, [0, 100]),
        ([(25, 100), (25, 100)], 0, [50, 50]),
        ([(25, 100), (25, 100)], 30, [50, 50]),  # both panic: by number of endpoints
        ([(0, 10), (0, 30)], 50, [25, 75]),
        ([(10, 100), (100, 100)], 50, [14, 86]),
    ],
)
def test_loads(counts, panic, want):
    assert [one.percent for one in loads([Count(*c) for c in counts], panic)] == want


@pytest.mark.parametrize(
    ("counts", "panic", "want"),
    [
        ([(1, 10)], 0, [False]),
        ([(1, 10)], 50, [True]),
        ([(5, 10)], 50, [False]),
        ([(1, 10), (10, 10)], 50, [False, False]),  # together they carry everything
        ([(1, 10), (2, 10)], 50, [True, True]),
        ([(1, 10), (6, 10)], 50, [True, False]),
    ],
)
def test_panic(counts, panic, want):
    assert [one.panic for one in loads([Count(*c) for c in counts], panic)] == want


sizes = st.integers(0, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.lists(sizes, max_size=5), st.integers(0, 100))
def test_all_traffic_goes_somewhere_or_nowhere(counts, panic):
    found = loads([Count(*c) for c in counts], panic)
    total = sum(one.percent for one in found)
    assert total == (100 if any(h for h, _ in counts) or total else 0)
    for (healthy, _), one in zip(counts, found, strict=True):
        assert one.percent == 0 or healthy or one.panic


def test_a_locality_keeps_its_weight_while_it_has_enough():
    assert locality_weight(10, 10, 10) == locality_weight(10, 8, 10) == 10
    assert locality_weight(10, 5, 10) == pytest.approx(7)
    assert locality_weight(10, 0, 0) == 0
