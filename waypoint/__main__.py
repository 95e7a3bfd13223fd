"""``waypoint``: environment to settings to ``app.run``."""

from __future__ import annotations

import sys

from ambient.cli.run import run_program
from waypoint.app import run
from waypoint.settings import Settings


def main() -> None:
    """Entry point of the program."""
    sys.exit(run_program("waypoint", Settings, run))


if __name__ == "__main__":
    main()
