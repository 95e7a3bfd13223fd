"""``ambientctl``: the command line of the mesh; a command's module is loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

import click

from ambientctl.console import fail_clearly
from ambientctl.groups import AliasedGroup

COMMANDS: Final = {
    "analyze": "ambientctl.analyze.command:command",
    "authz": "ambientctl.authz:command",
    "bug-report": "ambientctl.bug_report:command",
    "check": "ambientctl.check.command:command",
    "completion": "ambientctl.completion:command",
    "create-remote-secret": "ambientctl.remote_secret:command",
    "dashboard": "ambientctl.dashboard:command",
    "demo": "ambientctl.demo.command:demo",
    "describe": "ambientctl.describe.command:command",
    "enroll": "ambientctl.enroll:enroll",
    "explain": "ambientctl.explain:command",
    "graph": "ambientctl.traffic.graph:command",
    "install": "ambientctl.install.command:install",
    "local": "ambientctl.local.commands:local",
    "migrate": "ambientctl.migrate.command:command",
    "proxy-config": "ambientctl.proxy_config:command",
    "proxy-status": "ambientctl.proxy_status:command",
    "tag": "ambientctl.tag:command",
    "tap": "ambientctl.traffic.tap:command",
    "top": "ambientctl.traffic.top:command",
    "uninstall": "ambientctl.install.command:uninstall",
    "upgrade": "ambientctl.install.command:upgrade",
    "unenroll": "ambientctl.enroll:unenroll",
    "version": "ambientctl.version:version",
    "ztunnel-config": "ambientctl.ztunnel_config.command:command",
    "waypoint": "ambientctl.waypoint:waypoint",
    "why": "ambientctl.why.command:why",
}
"""Command name to ``module:attribute``; a module is imported only when its command is used."""

ALIASES: Final = {
    "apply": "install",
    "dash": "dashboard",
    "des": "describe",
    "pc": "proxy-config",
    "ps": "proxy-status",
    "zc": "ztunnel-config",
}
"""istioctl's short names."""


class LazyGroup(AliasedGroup):
    """A group whose commands are imported on first use, so that ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(self.aliases.get(cmd_name, cmd_name))
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(
    cls=LazyGroup, aliases=ALIASES, context_settings={"help_option_names": ["-h", "--help"]}
)
def cli() -> None:
    """Install, use and understand an ambient service mesh."""


def main() -> None:
    """Run the command; errors of the mesh become one line, a hint and an exit code."""
    sys.exit(fail_clearly(lambda: cli.main(standalone_mode=True)))


if __name__ == "__main__":
    main()
