"""Output in the habits of kubectl: aligned columns, JSON, YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    gap: int = 3,
    width: int | None = None,
) -> None:
    """Print aligned columns as kubectl does; the last column is not padded. No line is longer
    than ``width``.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True))
        print((" " * gap).join(cells).rstrip()[:width])


def dump(value: object, form: str) -> None:
    """Print ``json`` or ``yaml``."""
    if form == "json":
        print(json.dumps(value, indent=2, default=str))
    else:
        import yaml  # slow to load

        print(yaml.safe_dump(json.loads(json.dumps(value, default=str)), sort_keys=False), end="")


def output_option(*forms: str) -> Callable[[F], F]:
    """``-o``; the first form is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(forms), default=forms[0], help="Format of the answer."
    )


def warn(text: str, hint: str = "") -> None:
    """One line on standard error, and a hint."""
    print(f"warning: {text}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
