"""``istiod-lite``: the environment to settings, settings to the app."""

from __future__ import annotations

import sys
from importlib.metadata import version

USAGE = """usage: istiod-lite [version | help]

Settings come from the environment.
"""


def main() -> None:
    """Run the control plane until it is told to stop."""
    match sys.argv[1:]:
        case [] | ["discovery"]:  # as Istio's image is called
            pass
        case ["version"] | ["--version"]:
            sys.stdout.write(version("ambient-mesh") + "\n")
            sys.exit(0)
        case words:
            sys.stdout.write(USAGE)
            sys.exit(0 if words in (["help"], ["--help"], ["-h"]) else 2)
    # Imported late: printing a version or the usage should not load the whole control plane.
    from ambient.cli.run import run_program
    from istiod_lite import app
    from istiod_lite.settings import Settings

    sys.exit(run_program("istiod-lite", Settings, app.run))


if __name__ == "__main__":
    main()
