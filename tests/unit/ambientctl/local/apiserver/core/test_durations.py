"""Ages as kubectl writes them."""

from __future__ import annotations

import datetime

import pytest

from ambientctl.local.apiserver.core.durations import age, human, parse_time

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-0.5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * MINUTE, "2m"),
        (3 * MINUTE + 20, "3m20s"),
        (10 * MINUTE + 5, "10m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 5 * MINUTE, "3h5m"),
        (9 * HOUR + 5 * MINUTE, "9h"),
        (2 * DAY + 4 * HOUR, "2d4h"),
        (9 * DAY, "9d"),
        (2 * YEAR + 3 * DAY, "2y3d"),
        (9 * YEAR, "9y"),
    ],
)
def test_human(seconds, text):
    assert human(seconds) == text


def test_age():
    now = datetime.datetime(2026, 1, 1, 0, 0, 42, tzinfo=datetime.UTC)
    assert age("2026-01-01T00:00:00Z", now) == "42s"
    assert age("2026-01-01T00:00:00.123456Z", now) == "41s"
    assert age(None, now) == age("garbage", now) == "<unknown>"
    assert parse_time("garbage") is None
