"""The reference of all commands, made from the commands themselves.

``python -m ambientctl.reference > docs/ambientctl-reference.md``; a test compares the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from ambientctl.__main__ import cli

HEAD = """# ambientctl: all commands

Made from the program (`python -m ambientctl.reference`).
[ambientctl.md](ambientctl.md) tells what the commands are for.
"""


def reference() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="ambientctl")
    return HEAD + "".join(_group(cli, root))


def _group(group: click.Group, ctx: click.Context) -> Iterator[str]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=ctx)
        yield from _command(command, inner)
        if isinstance(command, click.Group):
            yield from _group(command, inner)


def _command(command: click.Command, ctx: click.Context) -> Iterator[str]:
    arguments = [one.make_metavar(ctx) for one in command.params if isinstance(one, click.Argument)]
    usage = " ".join([ctx.command_path, *arguments])
    yield f"\n## {ctx.command_path}\n\n`{usage}`\n"
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    if text:
        yield f"\n{_escaped(text)}\n"
    rows = [record for one in command.params if (record := one.get_help_record(ctx)) is not None]
    if rows:
        yield "\n| option | meaning |\n| --- | --- |\n"
        for spelt, meaning in rows:
            yield f"| `{spelt.replace('|', chr(92) + '|')}` | {_escaped(meaning)} |\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    print(reference(), end="")
