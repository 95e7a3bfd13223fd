"""``ambient-cni-agent`` is the node agent; with ``uninstall`` it takes itself off the node."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import NoReturn

from ambient.cli.run import run_program
from cni_plugin import app, uninstall
from cni_plugin.settings import Settings

USAGE = "usage: ambient-cni-agent [uninstall [--dry-run] | version | help]\n"
_TASKS = {
    (): app.run,
    ("uninstall",): uninstall.uninstall,
    ("uninstall", "--dry-run"): uninstall.dry_run,
}


def main() -> None:
    """The program."""
    task = _TASKS.get(tuple(sys.argv[1:]))
    if task is None:
        _answer(sys.argv[1:])
    sys.exit(run_program("ambient-cni-agent", Settings, task))


def _answer(words: list[str]) -> NoReturn:
    match words:
        case ["version"] | ["--version"]:
            sys.stdout.write(f"{version('ambient-mesh')}\n")
            sys.exit(0)
        case ["help"] | ["--help"] | ["-h"]:
            sys.stdout.write(USAGE)
            sys.exit(0)
        case _:
            sys.stderr.write(USAGE)
            sys.exit(2)


if __name__ == "__main__":
    main()
