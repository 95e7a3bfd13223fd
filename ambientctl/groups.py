"""Groups of commands: short names as of istioctl, and a hint for one that is misspelt."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

import click

from ambientctl.global_options import before_commands
from ambientctl.istioctl_habits import known_elsewhere, understood

SHOWN: Final = 10
"""So many commands are named to whom gives another one."""


class AliasedGroup(click.Group):
    """A group whose commands have other names, too, which help does not list. It takes the global
    options in front of its commands.
    """

    def __init__(
        self,
        *args: Any,
        aliases: Mapping[str, str] | None = None,
        show_global: bool = False,
        **kw: Any,
    ) -> None:
        super().__init__(*args, **kw)
        self.aliases = dict(aliases or {})
        self.params += before_commands(hidden=not show_global)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.UsageError as error:
            elsewhere = known_elsewhere(self._path(args[0])) if args else None
            if elsewhere is not None:
                raise elsewhere from None
            there = self.list_commands(ctx)
            near = get_close_matches(args[0], there, 1) if args else []
            if not near and len(there) > SHOWN:
                raise
            more = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(there)}."
            message = f"{error.message} {more}"
            raise click.UsageError(message, ctx) from error
        if command is None:
            return name, command, rest
        return name, command, understood(command, self._path(str(command.name)), rest)

    def _path(self, name: str) -> str:
        """How a command is called, without the program's name."""
        return f"{self.name} {name}"
