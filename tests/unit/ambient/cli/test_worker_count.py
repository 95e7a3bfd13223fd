"""How many workers a program has."""

import pytest

from ambient.cli.worker_count import worker_count


@pytest.mark.parametrize(
    ("wanted", "count"),
    [("1", 1), (" 3 ", 3), ("0", 8), ("50%", 4), ("1%", 1), ("0%", 1), ("30%", 3), ("200%", 16)],
)
def test_a_number_every_core_or_a_part_of_them(wanted, count):
    assert worker_count(wanted, cores=8) == count


@pytest.mark.parametrize("wanted", ["", "-1", "all", "2.5", "%", "50%%", "50 %", "²"])
def test_anything_else_is_named(wanted):
    with pytest.raises(ValueError, match="expected a whole number, a percentage or auto"):
        worker_count(wanted, cores=8)


@pytest.mark.parametrize(
    ("wanted", "limit", "count"),
    [
        ("auto", None, 1),
        ("auto", 2.0, 2),
        ("auto", 0.5, 1),
        ("auto", 2.5, 3),
        ("auto", 64.0, 8),
        ("0", 2.0, 2),
        ("50%", 4.0, 2),
        ("3", 2.0, 3),
    ],
)
def test_pain_of_one_worker_in_a_pod_that_may_use_more(wanted, limit, count):
    """And of one for each of a node's cores in a pod that may use two."""
    assert worker_count(wanted, cores=8, limit=limit) == count
