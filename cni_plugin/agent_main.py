"""``ambient-cni-agent`` is the node agent; with ``uninstall`` it undoes its installation."""

from __future__ import annotations

import sys

from ambient.cli.run import run_program
from cni_plugin import app
from cni_plugin.settings import Settings

USAGE = "usage: ambient-cni-agent [uninstall]\n"


def main() -> None:
    """The program."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["uninstall"]):
        sys.stderr.write(USAGE)
        sys.exit(2)
    todo = app.uninstall if arguments else app.run
    sys.exit(run_program("ambient-cni-agent", Settings, todo))


if __name__ == "__main__":
    main()
