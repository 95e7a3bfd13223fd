"""The arithmetic of a rolling update."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.controllers.rollout import Generation, Limits, limits, next_new, next_old


@pytest.mark.parametrize(
    ("replicas", "rolling", "want"),
    [
        (10, {}, (10, 3, 2)),  # 25 %: surge rounds up, unavailable down
        (1, {}, (1, 1, 0)),
        (3, {"maxSurge": 0, "maxUnavailable": 0}, (3, 0, 1)),  # no way forward otherwise
        (4, {"maxSurge": "50%", "maxUnavailable": 1}, (4, 2, 1)),
    ],
)
def test_limits(replicas, rolling, want):
    assert limits(replicas, rolling) == Limits(*want)


@pytest.mark.parametrize(
    ("new", "old", "limit", "want_new", "want_old"),
    [
        # the start: room for the surge only, nothing old may go
        ((0, 0), [(3, 3)], (3, 1, 0), 1, [3]),
        # one new pod serves: one old may go
        ((1, 1), [(3, 3)], (3, 1, 0), 1, [2]),
        # an old pod that serves nobody goes first
        ((1, 0), [(3, 2)], (3, 1, 1), 1, [2]),
        # all new serve: the old go
        ((3, 3), [(1, 1)], (3, 1, 0), 3, [0]),
        # scaled down meanwhile
        ((3, 3), [], (2, 1, 0), 2, []),
    ],
)
def test_steps(new, old, limit, want_new, want_old):
    generations = [Generation(*pair) for pair in old]
    assert next_new(Generation(*new), generations, Limits(*limit)) == want_new
    assert next_old(Generation(*new), generations, Limits(*limit)) == want_old


@given(
    replicas=st.integers(1, 12),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    order=st.randoms(use_true_random=False),
)
def test_an_update_always_ends_and_never_serves_with_too_few(replicas, surge, unavailable, order):
    limit = limits(replicas, {"maxSurge": surge, "maxUnavailable": unavailable})
    new, old = Generation(0, 0), Generation(replicas, replicas)
    for _ in range(200):
        wanted = next_new(new, [old], limit)
        new = Generation(wanted, min(new.available, wanted))
        (kept,) = next_old(new, [old], limit)
        old = Generation(kept, min(old.available, kept))
        assert new.wanted + old.wanted <= replicas + limit.surge
        assert new.available + old.available >= replicas - limit.unavailable
        if new == Generation(replicas, replicas) and old.wanted == 0:
            return
        # Some of the new pods become ready, at least one.
        pending = new.wanted - new.available
        if pending:
            new = Generation(new.wanted, new.available + order.randint(1, pending))
    raise AssertionError(f"stuck at {new}, {old} with {limit}")
