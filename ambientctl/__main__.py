"""``ambientctl``: the command line of the mesh; a command's module is loaded when it is called."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Final

import click
from click.shell_completion import CompletionItem

from ambientctl.commands import COMMANDS, GROUPS
from ambientctl.completion import VARIABLE
from ambientctl.console import fail_clearly
from ambientctl.groups import AliasedGroup
from ambientctl.istioctl_habits import known_elsewhere

ALIASES: Final = {
    "apply": "install",
    "dash": "dashboard",
    "des": "describe",
    "pc": "proxy-config",
    "precheck": "check --pre",
    "ps": "proxy-status",
    "verify-install": "check",
    "zc": "ztunnel-config",
}
"""istioctl's short names, and its words for what has another name here."""
EXPERIMENTAL: Final = ("experimental", "exp", "x")
"""istioctl's groups of commands that are ordinary ones here: ``x precheck``, ``x describe``."""


class LazyGroup(AliasedGroup):
    """A group whose commands are imported when they are called; help and completion need none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in EXPERIMENTAL:
            return self
        if cmd_name == "help":
            return help_command
        name = self.aliases.get(cmd_name, cmd_name).partition(" ")[0]
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[:2] == ["manifest", "generate"]:
            args = ["install", "--dry-run", *args[2:]]
        elif args[:1] == ["manifest"] and (elsewhere := known_elsewhere(" ".join(args[:2]))):
            raise elsewhere
        name, command, rest = super().resolve_command(ctx, args)
        options = self.aliases.get(args[0], "").split(" ")[1:] if args else []
        return name, command, [*options, *rest]

    def _path(self, name: str) -> str:
        return name

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading, entries in GROUPS.items():
            with formatter.section(heading):
                rows = [(f"{name:<{width}}", one.summary) for name, one in entries.items()]
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        own = [
            CompletionItem(name, help=entry.summary)
            for name, entry in sorted(COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*own, *click.Command.shell_complete(self, ctx, incomplete)]


@click.command("help")
@click.argument("words", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """The help of a command, as ``--help`` behind it."""
    inner = ctx.find_root()
    for word in words:
        if not isinstance(inner.command, click.Group):
            raise click.UsageError(f"No such command {word!r}.", inner)
        name, command, _ = inner.command.resolve_command(inner, [word])
        assert command is not None
        inner = click.Context(command, info_name=name, parent=inner)
    click.echo(inner.get_help())


@click.group(
    cls=LazyGroup,
    aliases=ALIASES,
    show_global=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Install, use and understand an ambient service mesh."""


def open_standard_streams() -> None:
    """A descriptor that the caller has closed (``>&-``) goes nowhere, and to no socket of ours."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.dup2(descriptor, number)
            if descriptor != number:
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def main() -> None:
    """Run the command; errors of the mesh become one line, a hint and an exit code."""
    if VARIABLE in os.environ:  # a shell that completes shows what is written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✔ gets a question mark
    sys.exit(fail_clearly(lambda: cli.main(standalone_mode=False)))


if __name__ == "__main__":
    main()
