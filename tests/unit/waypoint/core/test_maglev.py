"""The table is full, fair, weighted and independent of the order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.maglev import Maglev, is_prime

KEYS = [f"10.0.0.{n}:80" for n in range(5)]


def counts(table, size):
    return Counter(table.pick(value) for value in range(size))


def test_every_endpoint_gets_its_part():
    found = counts(Maglev(KEYS, [1, 1, 1, 1, 1], 65537), 65537)
    assert max(found.values()) - min(found.values()) <= 1
    found = counts(Maglev(KEYS, [1, 1, 1, 1, 4], 65537), 65537)
    assert found[4] / found[0] == pytest.approx(4, rel=0.01)


def test_the_order_of_endpoints_does_not_matter():
    one, other = Maglev(KEYS, [1] * 5, 1021), Maglev(KEYS[::-1], [1] * 5, 1021)
    assert [one.pick(v) for v in range(1021)] == [4 - other.pick(v) for v in range(1021)]


def test_another_attempt_looks_elsewhere():
    table = Maglev(KEYS, [1] * 5, 1021)
    assert len({table.pick(77, attempt) for attempt in range(20)}) > 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_any_weights_fill_the_table(weights):
    keys = [f"h{n}" for n in range(len(weights))]
    found = counts(Maglev(keys, weights, 1021), 1021)
    assert sum(found.values()) == 1021
    assert set(found) <= set(range(len(weights)))


@pytest.mark.parametrize(
    ("number", "prime"), [(1, False), (2, True), (9, False), (65537, True), (5000011, True)]
)
def test_is_prime(number, prime):
    assert is_prime(number) is prime
