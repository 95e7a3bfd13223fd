"""Output in the habits of kubectl: aligned columns, JSON, YAML."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from ambient.api.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
FOR_PEOPLE: Final = frozenset({"table", "short", "text", "wide"})
NO_HEADERS, SORT_BY = "no_headers", "sort_by"
"""In click's ``meta``: how the caller wants tables (``ambientctl.listing``)."""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    gap: int = 3,
    width: int | None = None,
) -> None:
    """Print aligned columns as kubectl does; the last column is not padded. No line is longer
    than ``width``. ``--no-headers`` and ``--sort-by`` of the command hold.
    """
    ctx = click.get_current_context(silent=True)
    how = ctx.meta if ctx else {}
    if SORT_BY in how:
        rows = _sorted(header, rows, how[SORT_BY])
    lines = [*([] if NO_HEADERS in how else [list(header)]), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True))
        print((" " * gap).join(cells).rstrip()[:width])


def _sorted(header: Sequence[str], rows: Sequence[Sequence[str]], by: str) -> list[Sequence[str]]:
    """By a column; numbers in it count as such. Raises UsageError where there is no such one."""
    names = [name.lower() for name in header]
    wanted = by.lower().replace("-", " ")
    if wanted not in names:
        raise UsageError(f"there is no column {by!r}", hint=f"columns: {', '.join(header)}")
    column = names.index(wanted)

    def key(row: Sequence[str]) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", row[column])
        return [(0, int(one), "") if one.isdecimal() else (1, 0, one) for one in parts]

    return sorted(rows, key=key)


def dump(value: object, form: str) -> None:
    """Print ``json`` or ``yaml``."""
    if form == "json":
        print(json.dumps(value, indent=2, default=str))
    else:
        import yaml  # slow to load

        print(yaml.safe_dump(json.loads(json.dumps(value, default=str)), sort_keys=False), end="")


def taken(several: Sequence[str]) -> str:
    """The first of several that a name stands for; which it is, is said as kubectl does."""
    if len(several) > 1:
        print(f"found {len(several)} pods, using {several[0]}", file=sys.stderr)
    return several[0]


def names(several: Iterable[str]) -> None:
    """One a line, as ``-o name`` of kubectl."""
    for one in several:
        print(one)


def output_option(*forms: str) -> Callable[[F], F]:
    """``-o``; the first form is the default. ``table``, ``short``, ``text`` and ``wide`` mean it,
    too, where they are no forms of their own: which word a command has, nobody need know.
    """
    return click.option(
        "-o", "--output", type=_Form(forms), default=forms[0], help="Format of the answer."
    )


class _Form(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        first = str(self.choices[0])
        if value in FOR_PEOPLE and value not in self.choices and first not in ("json", "yaml"):
            return first
        return str(super().convert(value, param, ctx))


def warn(text: str, hint: str = "") -> None:
    """One line on standard error, and a hint."""
    print(f"warning: {text}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def age_of(moment: str, now: datetime | None = None) -> str:
    """How long ago, as kubectl writes it; empty where it never was."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return ""
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
