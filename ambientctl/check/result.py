"""One line of ``check``."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class State(StrEnum):
    """How a check ended; SKIPPED where it could not be made, which the text says why."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


SYMBOLS: Final = {State.OK: "✔", State.WARNING: "‼", State.ERROR: "✘", State.SKIPPED: "-"}
"""A tick, a warning, a cross."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` is what was seen, ``remedy`` what to do; a good result needs none."""

    category: str
    name: str
    state: State
    text: str
    remedy: str = ""


def ok(category: str, name: str, text: str) -> Result:
    """All is well."""
    return Result(category=category, name=name, state=State.OK, text=text)


def warning(category: str, name: str, text: str, remedy: str) -> Result:
    """Something that will hurt, or may."""
    return Result(category=category, name=name, state=State.WARNING, text=text, remedy=remedy)


def error(category: str, name: str, text: str, remedy: str) -> Result:
    """Something that does not work."""
    return Result(category=category, name=name, state=State.ERROR, text=text, remedy=remedy)


def skipped(category: str, name: str, text: str, remedy: str = "") -> Result:
    """Nobody could look."""
    return Result(category=category, name=name, state=State.SKIPPED, text=text, remedy=remedy)
