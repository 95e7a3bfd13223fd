"""Options that belong together reach a command as one argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Any], Any]


def grouped(into: str, made: Callable[..., object], *options: Option) -> Callable[[F], F]:
    """A decorator that gives a command these options; ``made`` gets their values by name."""

    def decorate(command: F) -> F:
        def with_group(**values: Any) -> Any:
            mine = {name: values.pop(name) for name in names}
            return command(**{into: made(**mine)}, **values)

        with_group.__name__, with_group.__doc__ = command.__name__, command.__doc__
        before = list(getattr(command, "__click_params__", []))
        wrapped: Any = with_group
        wrapped.__click_params__ = list(before)
        for option in reversed(options):
            wrapped = option(wrapped)
        names = [one.name for one in wrapped.__click_params__ if one not in before]
        return wrapped  # type: ignore[no-any-return]

    return decorate


def seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """A callback for spans of time: ``90``, ``90s``, ``10m``, ``2h``."""
    found = re.fullmatch(r"(\d+)([smh]?)", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no span of time; write 90s, 10m or 2h")
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


redirection_option = click.option(
    "--redirection",
    type=click.Choice(["nftables", "ebpf", "auto"]),
    default="nftables",
    show_default=True,
    help="What redirects pods; where a node cannot have eBPF it uses nftables.",
)
