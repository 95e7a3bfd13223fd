"""``ambientctl completion SHELL``: the script that makes a shell complete our commands."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "ambientctl"
VARIABLE: Final = "_AMBIENTCTL_COMPLETE"
"""click's own protocol: the script calls the program with this variable set."""


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL.

    bash: source <(ambientctl completion bash). zsh: the same, after compinit. fish: ambientctl
    completion fish | source.
    """
    found = get_completion_class(shell)
    assert found is not None
    completer = found(ctx.find_root().command, {}, PROGRAM, VARIABLE)
    # Not .source(): that runs bash to look at its version, which need not be this machine's.
    print(completer.source_template % completer.source_vars())
