"""Every fuzz target, briefly, with a seed that never changes."""

import pytest

from tests.fuzz import dns_answers, dns_packets, mutation

TARGETS = [dns_answers, dns_packets]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition(".")[2])
def test_target(target):
    assert mutation.run(target.run, target.SEEDS, seconds=1.0) > len(target.SEEDS)
