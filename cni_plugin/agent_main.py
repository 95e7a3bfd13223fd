"""``ambient-cni-agent`` is the node agent; with ``uninstall`` it takes itself off the node."""

from __future__ import annotations

import sys

from ambient.cli.run import run_program
from cni_plugin import app, uninstall
from cni_plugin.settings import Settings

USAGE = "usage: ambient-cni-agent [uninstall [--dry-run]]\n"
_TASKS = {
    (): app.run,
    ("uninstall",): uninstall.uninstall,
    ("uninstall", "--dry-run"): uninstall.dry_run,
}


def main() -> None:
    """The program."""
    task = _TASKS.get(tuple(sys.argv[1:]))
    if task is None:
        sys.stderr.write(USAGE)
        sys.exit(2)
    sys.exit(run_program("ambient-cni-agent", Settings, task))


if __name__ == "__main__":
    main()
