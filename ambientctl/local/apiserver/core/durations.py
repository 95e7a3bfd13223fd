"""How long ago something was, as kubectl writes it: ``5s``, ``3m20s``, ``2d4h``."""

from __future__ import annotations

import datetime
from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_YEAR_S: Final = 365 * _DAY_S


def parse_time(text: str) -> datetime.datetime | None:
    """An RFC 3339 time, with or without fractions; None when it is none."""
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def age(text: str | None, now: datetime.datetime) -> str:
    """The age of a timestamp; ``<unknown>`` when there is none."""
    then = parse_time(text) if text else None
    return "<unknown>" if then is None else human((now - then).total_seconds())


def human(seconds: float) -> str:
    """A duration with two significant units at most (apimachinery's HumanDuration)."""
    left = int(seconds)
    if left < -1:
        return "<invalid>"
    left = max(left, 0)
    if left < 2 * _MINUTE_S:
        return f"{left}s"
    minutes = left // _MINUTE_S
    if minutes < 10:
        return _two(minutes, "m", left % _MINUTE_S, "s")
    if minutes < 3 * 60:
        return f"{minutes}m"
    hours = left // _HOUR_S
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = left // _DAY_S
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if left < 2 * _YEAR_S:
        return f"{days}d"
    years = left // _YEAR_S
    if years < 8:
        return _two(years, "y", days % 365, "d")
    return f"{years}y"


def _two(big: int, unit: str, small: int, small_unit: str) -> str:
    return f"{big}{unit}{small}{small_unit}" if small else f"{big}{unit}"
