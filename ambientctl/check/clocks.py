"""Whose clock differs from the API server's: every program of the mesh tells its own with an
answer (HTTP's ``Date``). Certificates begin to be valid when they are made, so that who is behind
refuses new ones. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ambientctl.check.result import Result, error, ok

GRAIN: Final = timedelta(seconds=1)
"""Of HTTP's dates, which leave the rest of the second out."""
MAX_SKEW: Final = timedelta(seconds=5)
"""Certificates begin two minutes in the past; leases and tokens are less patient."""
REMEDY: Final = "run a time service there (chronyc tracking, timedatectl); meanwhile certificates "


class Told(NamedTuple):
    """A clock that somebody told, and our own before we asked and after the answer."""

    moment: datetime
    before: datetime
    after: datetime


def ahead(one: Told, other: Told) -> timedelta:
    """How far one clock is certainly ahead of another; below zero behind; a slow answer proves
    nothing.
    """
    least = (one.moment - one.after) - (other.moment + GRAIN - other.before)
    most = (one.moment + GRAIN - one.before) - (other.moment - other.after)
    if least > timedelta():
        return least
    return most if most < timedelta() else timedelta()


def clocks(
    category: str, told: Mapping[str, Told], server: Told | None, nodes_of: Mapping[str, str]
) -> Iterator[Result]:
    """A line for each program that is far off, or one for all."""
    if server is None or not told:
        return
    off = {name: ahead(one, server) for name, one in sorted(told.items())}
    for name, skew in off.items():
        if abs(skew) > MAX_SKEW:
            seconds, behind = abs(skew).total_seconds(), skew < timedelta()
            where = f" on node {nodes_of[name]}" if nodes_of.get(name) else ""
            side = "behind" if behind else "ahead of"
            text = f"clock skew: {name}{where} is {seconds:.0f} s {side} the API server"
            effect = "are not valid yet there" if behind else "end too early there"
            yield error(category, "clock", text, REMEDY + effect)
    if all(abs(skew) <= MAX_SKEW for skew in off.values()):
        yield ok(category, "clock", f"{len(off)} agree with the API server's")
