"""Options of every command that prints a table: ``--watch``, ``--no-headers``, ``--sort-by``."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ambientctl.printing import NO_HEADERS, SORT_BY

F = TypeVar("F", bound=Callable[..., Any])
CLEAR: Final = "\x1b[H\x1b[2J"
LOOK_S: Final = 2.0
"""Between two looks; as often as ``watch`` and ``top``."""


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta[str(param.name)] = value


def listing(command: F) -> F:
    """A decorator that gives a command these options."""

    def watching(watch: bool, **values: Any) -> Any:
        return _watch(lambda: command(**values)) if watch else command(**values)

    watching.__name__, watching.__doc__ = command.__name__, command.__doc__
    wrapped: Any = watching
    wrapped.__click_params__ = list(getattr(command, "__click_params__", []))
    how: Any = {"expose_value": False, "callback": _keep}
    for option in (
        click.option("--sort-by", SORT_BY, metavar="COLUMN", help="Order of the rows.", **how),
        click.option("--no-headers", NO_HEADERS, is_flag=True, help="Rows only.", **how),
        click.option(
            "-w", "--watch", is_flag=True,
            help="Look again and again, and show what has changed, until Ctrl-C.",
        ),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _watch(look: Callable[[], object]) -> None:
    """Show it again when it has changed: on a terminal the whole, elsewhere the new lines."""
    shown: list[str] = []
    first = True
    while True:
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
            look()
        lines = told.getvalue().splitlines()
        if lines != shown or first:
            _show(lines, shown)
        shown, first = lines, False
        time.sleep(LOOK_S)


def _show(lines: list[str], shown: list[str]) -> None:
    if sys.stdout.isatty():
        print(CLEAR + "\n".join(lines), flush=True)
    else:
        before = set(shown)
        new = [line for line in lines if line not in before]
        print("\n".join(new), end="\n" if new else "", flush=True)
