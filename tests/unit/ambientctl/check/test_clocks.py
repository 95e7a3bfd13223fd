"""What clocks that were told prove."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.check.clocks import Told, ahead

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(at_s, *, skew_s=0.0, slow_s=0.0):
    """A program is asked, and answers half of ``slow_s`` later; HTTP's dates have whole seconds."""
    moment = NOON + timedelta(seconds=at_s + slow_s / 2 + skew_s)
    before = NOON + timedelta(seconds=at_s)
    return Told(moment.replace(microsecond=0), before, before + timedelta(seconds=slow_s))


@pytest.mark.parametrize(
    ("skew_s", "slow_s", "least", "most"),
    [
        (0, 0, 0, 0),
        (0, 30, 0, 0),
        (60, 0, 58, 60),
        (-60, 0, -60, -58),
        (60, 30, 28, 60),
        (10, 30, 0, 10),
    ],
)
def test_what_is_certain(skew_s, slow_s, least, most):
    found = ahead(told(5.4, skew_s=skew_s, slow_s=slow_s), told(0)).total_seconds()
    assert least <= found <= most


TIMES = st.floats(0, 100)


@given(TIMES, TIMES, TIMES, st.floats(-1000, 1000))
def test_never_more_than_there_is_and_slow_answers_prove_nothing(at_s, slow_s, other_s, skew_s):
    one, other = told(at_s, skew_s=skew_s, slow_s=slow_s), told(other_s)
    found = ahead(one, other).total_seconds()
    assert abs(found) <= abs(skew_s) + 1e-5
    assert found * skew_s >= 0
