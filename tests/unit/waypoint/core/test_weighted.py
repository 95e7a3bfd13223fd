"""Earliest deadline first spreads picks evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.weighted import Schedule, draw_weighted


def test_picks_are_spread():
    schedule = Schedule(2, lambda index: (3.0, 1.0)[index], 0.0)
    assert [schedule.pick() for _ in range(8)].count(1) == 2
    picks = [schedule.pick() for _ in range(400)]
    assert "1,1" not in ",".join(map(str, picks))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_index_gets_its_weight(weights):
    schedule = Schedule(len(weights), lambda index: float(weights[index]), 0.0)
    rounds = 10
    found = Counter(schedule.pick() for _ in range(rounds * sum(weights)))
    for index, weight in enumerate(weights):
        assert abs(found[index] - rounds * weight) <= 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_draws_never_pick_a_weight_of_zero(weights, draw):
    weights[0] += 1
    assert weights[draw_weighted(weights, draw)] > 0


def test_draws_follow_the_weights():
    assert [draw_weighted([1, 0, 3], d) for d in (0, 0.24, 0.26, 0.99)] == [0, 0, 2, 2]
