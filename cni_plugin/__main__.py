"""``ambient-cni``: started by the container runtime for every pod (CNI plugin, chained).

The agent decides about the mesh; this process passes the previous plugin's result on. It imports
the standard library only, so that a pod waits a few hundredths of a second for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from cni_plugin.core.reply import CniError, Code
from cni_plugin.core.request import LATEST_VERSION, SUPPORTED_VERSIONS, parse
from cni_plugin.io.verbs import perform


def main() -> None:
    """The program."""
    if not os.environ.get("CNI_COMMAND"):
        versions = ", ".join(SUPPORTED_VERSIONS)
        sys.stderr.write(
            "ambient-cni is a CNI plugin; container runtimes start it with CNI_COMMAND set.\n"
            f"CNI protocol versions supported: {versions}\n"
        )
        sys.exit(0)
    sys.exit(run(os.environ, sys.stdin.buffer.read(), sys.stdout))


def run(env: Mapping[str, str], raw: bytes, output: TextIO) -> int:
    """Answer one call; the exit status."""
    try:
        reply = perform(parse(env, raw))
    except CniError as error:
        json.dump(error.reply(_version(raw)), output)
        return 1
    except Exception as error:  # noqa: BLE001 # the runtime needs an error object, whatever happens
        failure = CniError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        json.dump(failure.reply(_version(raw)), output)
        return 1
    if reply is not None:
        json.dump(reply, output)
    return 0


def _version(raw: bytes) -> str:
    """The version to answer an error in, even where the rest of the configuration is broken."""
    try:
        version = json.loads(raw)["cniVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return LATEST_VERSION
    return version if version in SUPPORTED_VERSIONS else LATEST_VERSION


if __name__ == "__main__":
    main()
