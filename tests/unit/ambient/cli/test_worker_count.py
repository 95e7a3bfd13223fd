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
    with pytest.raises(ValueError, match="expected a whole number or a percentage"):
        worker_count(wanted, cores=8)
