"""What a starting mesh tells the waiting ``up``, as JSON lines through a pipe."""

from __future__ import annotations

import os

import msgspec


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. ``stage`` names what is going on; ``ready`` or ``error`` ends the waiting."""

    stage: str = ""
    detail: str = ""
    ready: bool = False
    error: str = ""
    hint: str = ""
    kind: str = ""
    """``namespaces``: the kernel refused them."""


class Reporter:
    """The supervisor's end. Raises OSError (EPIPE) when nobody waits any more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, report: Report) -> None:
        """Tell; nothing after ``close``."""
        if self._fd >= 0:
            os.write(self._fd, msgspec.json.encode(report) + b"\n")

    def close(self) -> None:
        """The waiting is over."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
