"""``waypoint [--workers N]``: environment to settings to ``supervisor.run``."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version

from ambient.cli.run import run_program
from waypoint.app import WorkerChannel, run_worker
from waypoint.settings import Settings
from waypoint.supervisor import run

USAGE = """usage: waypoint [version | help] [--workers N]

  --workers N   processes: a number, 0 for one a core, 50%, or auto (the same as WAYPOINT_WORKERS)

Other settings come from the environment.
"""


def main() -> None:
    """Entry point of the program."""
    match sys.argv[1:]:
        case ["worker", *numbers]:
            channel = WorkerChannel(*map(int, numbers))
            sys.exit(run_program("waypoint", Settings, partial(run_worker, channel)))
        case [] | ["proxy", "waypoint"]:
            pass
        case ["--workers", count]:
            os.environ["WAYPOINT_WORKERS"] = count
        case [word] if word.startswith("--workers="):
            os.environ["WAYPOINT_WORKERS"] = word.partition("=")[2]
        case ["version"] | ["--version"]:
            sys.stdout.write(f"{version('ambient-mesh')}\n")
            sys.exit(0)
        case words:
            sys.stdout.write(USAGE)
            sys.exit(0 if words in (["help"], ["--help"], ["-h"]) else 2)
    sys.exit(run_program("waypoint", Settings, run))


if __name__ == "__main__":
    main()
