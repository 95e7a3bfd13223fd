"""The program ``ztunnel``: ``ztunnel [proxy [ztunnel]]``, configured by its environment."""

from __future__ import annotations

import sys
from importlib.metadata import version

USAGE = "usage: ztunnel [proxy [ztunnel] | version | help]\n\nSettings come from the environment.\n"


def main() -> None:
    """Run the node tunnel, or print what was asked for."""
    command = sys.argv[1] if len(sys.argv) > 1 else "proxy"
    if command == "proxy":
        # Imported late: printing a version or the usage should not load the whole tunnel.
        from ambient.cli.run import run_program
        from ztunnel.app import run
        from ztunnel.settings import Settings

        sys.exit(run_program("ztunnel", Settings, run))
    if command == "version":
        sys.stdout.write(f"{version('ambient-mesh')}\n")
        sys.exit(0)
    sys.stdout.write(USAGE)
    sys.exit(0 if command == "help" else 1)


if __name__ == "__main__":
    main()
