"""What to do next about one pod: what is wanted against what has been done."""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Final, NamedTuple

ENABLED: Final = "enabled"
"""Value of the redirection annotation of a pod that is in the mesh."""

FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 5.0


class Phase(StrEnum):
    """How far a pod is in."""

    OUT = auto()
    ENROLLED = auto()
    """Rules and tunnel are in place."""
    DRAINING = auto()
    """New connections go direct; the tunnel may still carry old ones."""


class Action(StrEnum):
    """The one next step; after it the question is asked again."""

    NOTHING = auto()
    ENROL = auto()
    ANNOTATE = auto()
    """All is in place, only the pod does not say so."""
    UNENROL = auto()
    FINISH_DRAIN = auto()
    """Take the rest of the rules away if no connection needs them any more."""
    RELEASE = auto()
    """The pod is gone with its namespace: tell the tunnel, forget."""


class Facts(NamedTuple):
    """What is known about one pod."""

    exists: bool
    """The API server has it, and it has not run to its end."""
    wanted: bool
    has_address: bool
    """Until then the runtime is still making it, and will call the plugin."""
    phase: Phase
    annotation: str | None
    """The redirection annotation, as the API server has it."""
    rules_fit: bool = True
    """The pod's annotations about its capture, and its addresses, are what its rules are for."""
    leaving: bool = False
    """It is evicted already: nothing is begun with it any more."""


def next_action(facts: Facts) -> Action:
    """The next step for a pod."""
    if not facts.exists:
        return Action.NOTHING if facts.phase is Phase.OUT else Action.RELEASE
    if facts.wanted:
        if facts.phase is Phase.ENROLLED and facts.rules_fit:
            return Action.NOTHING if facts.annotation == ENABLED else Action.ANNOTATE
        return Action.ENROL if facts.has_address and not facts.leaving else Action.NOTHING
    if facts.phase is Phase.ENROLLED or facts.annotation is not None:
        return Action.UNENROL
    return Action.FINISH_DRAIN if facts.phase is Phase.DRAINING else Action.NOTHING


def retry_after_s(failures: int) -> float:
    """Seconds until the next try after so many failures in a row (1 and up)."""
    return float(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures - 1, 10)))
