"""The program ``ztunnel``: ``ztunnel [proxy [ztunnel]] [--workers N]``, configured by its
environment.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version

USAGE = """usage: ztunnel [proxy [ztunnel] | version | help] [--workers N]

  --workers N   processes that share the node's pods: a number, 0 for one a core, or 50%
                (the same as ZTUNNEL_WORKER_THREADS)

Other settings come from the environment.
"""


def main() -> None:
    """Run the node tunnel, or print what was asked for."""
    words = [word for word in _take_workers(sys.argv[1:]) if word]
    command = words[0] if words else "proxy"
    if command in ("proxy", "worker"):
        # Imported late: printing a version or the usage should not load the whole tunnel.
        from ambient.cli.run import run_program
        from ztunnel.settings import Settings

        if command == "worker":
            from ztunnel.app import run_worker
            from ztunnel.io.channels import Channels

            channels = Channels(*map(int, words[1:4]))
            sys.exit(run_program("ztunnel", Settings, partial(run_worker, channels)))
        from ztunnel.supervisor import run

        sys.exit(run_program("ztunnel", Settings, run))
    if command in ("version", "--version"):
        sys.stdout.write(f"{version('ambient-mesh')}\n")
        sys.exit(0)
    sys.stdout.write(USAGE)
    sys.exit(0 if command in ("help", "--help", "-h") else 2)


def _take_workers(words: list[str]) -> list[str]:
    """The words without ``--workers``, which is put where the other settings are."""
    rest = []
    remaining = iter(words)
    for word in remaining:
        name, separator, value = word.partition("=")
        if name == "--workers":
            os.environ["ZTUNNEL_WORKER_THREADS"] = value if separator else next(remaining, "?")
        else:
            rest.append(word)
    return rest


if __name__ == "__main__":
    main()
