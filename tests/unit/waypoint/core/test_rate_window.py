"""A sliding window counts what happened lately."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.rate_window import SLOTS, RateWindow


def test_what_is_old_is_forgotten_slot_by_slot():
    window = RateWindow(10.0)
    for second in range(10):
        window.note(100.0 + second)
    assert window.count(109.0) == 10
    assert window.count(112.0) == 7
    assert window.count(200.0) == 0


@given(st.lists(st.floats(0, 50), max_size=60), st.floats(0.1, 20))
def test_never_more_than_the_interval_and_never_less_than_all_but_a_slot(gaps, interval):
    window, at, noted = RateWindow(interval), 1000.0, []
    for gap in gaps:
        at += gap
        window.note(at)
        noted.append(at)
        slot = interval / SLOTS
        assert window.count(at) <= sum(one > at - interval - slot / 100 for one in noted)
        assert window.count(at) >= sum(one > at - interval + slot * 1.01 for one in noted)
