"""``ambientctl``: the command line of the mesh; a command's module is loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

import click

from ambientctl.console import fail_clearly

COMMANDS: Final = {
    "analyze": "ambientctl.analyze.command:command",
    "demo": "ambientctl.demo.command:demo",
    "enroll": "ambientctl.enroll:enroll",
    "local": "ambientctl.local.commands:local",
    "unenroll": "ambientctl.enroll:unenroll",
    "version": "ambientctl.version:version",
    "zc": "ambientctl.ztunnel_config.command:command",
    "ztunnel-config": "ambientctl.ztunnel_config.command:command",
    "waypoint": "ambientctl.waypoint:waypoint",
    "why": "ambientctl.why.command:why",
}
"""Command name to ``module:attribute``; a module is imported only when its command is used."""


class LazyGroup(click.Group):
    """A group whose commands are imported on first use, so that ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Install, use and understand an ambient service mesh."""


def main() -> None:
    """Run the command; errors of the mesh become one line, a hint and an exit code."""
    sys.exit(fail_clearly(lambda: cli.main(standalone_mode=True)))


if __name__ == "__main__":
    main()
