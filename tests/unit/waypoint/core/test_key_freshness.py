"""When keys are fetched again."""

from __future__ import annotations

from tests.unit.waypoint.core.test_authenticate import jwks
from waypoint.core.json_web_token import KeySet, read_keys
from waypoint.core.key_freshness import KeyFreshness

KEYS = read_keys(jwks("one"))


def test_keys_are_renewed_in_time():
    known = KeyFreshness(1200.0)
    assert known.due_s < 0
    known.fetched(KEYS, 100.0)
    assert (known.keys, known.due_s) == (KEYS, 1300.0)


def test_failures_wait_longer_each_time_and_keep_the_old_keys():
    known = KeyFreshness(1200.0)
    known.fetched(KEYS, 0.0)
    waits = []
    for _ in range(9):
        known.failed("down", 10.0)
        waits.append(known.due_s - 10.0)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (known.keys, known.error) == (KEYS, "down")
    known.fetched(KEYS, 20.0)
    assert (known.error, known.due_s) == ("", 1220.0)


def test_a_document_without_keys_is_a_failure():
    known = KeyFreshness(1200.0)
    known.fetched(KeySet(error="Jwks is an invalid JSON"), 0.0)
    assert (known.keys, known.error, known.due_s) == (None, "Jwks is an invalid JSON", 1.0)


def test_rotation_is_not_asked_for_too_often():
    known = KeyFreshness(1200.0)
    known.fetched(KEYS, 100.0)
    assert [known.may_rotate(now) for now in (100.0, 104.9, 105.0)] == [False, False, True]
