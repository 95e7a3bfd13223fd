"""``istiod-lite``: the environment to settings, settings to the app."""

from __future__ import annotations

import sys

from ambient.cli.run import run_program
from istiod_lite import app
from istiod_lite.settings import Settings


def main() -> None:
    """Run the control plane until it is told to stop."""
    sys.exit(run_program("istiod-lite", Settings, app.run))


if __name__ == "__main__":
    main()
