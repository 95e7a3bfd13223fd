"""``ambientctl version``."""

from __future__ import annotations

from importlib.metadata import version as installed

import click


@click.command()
def version() -> None:
    """Print the version of this program."""
    print(installed("ambient-mesh"))
