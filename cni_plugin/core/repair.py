"""What to do about a pod of the mesh that runs without being redirected.

It started while the plugin was not in the runtime's chain (a node that boots, a network plugin that
rewrote its configuration), or somebody removed its rules.
"""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Literal, NamedTuple

Policy = Literal["mend", "evict"]


class Repair(StrEnum):
    """The remedy."""

    NOTHING = auto()
    MEND = auto()
    """Redirect it as it runs; connections that it has already stay outside the mesh."""
    EVICT = auto()
    """Have it started again, behind the plugin: nothing of it was ever outside the mesh."""


class Case(NamedTuple):
    """What is known of a pod that is in the mesh by its labels."""

    redirected: bool
    seen_by_plugin: bool
    """The plugin wrote a record of the pod's present sandbox."""
    member_from_start: bool
    """It was labelled when the agent first saw it running. A label that comes later is an
    enrolment, which never costs a restart."""
    replaceable: bool
    """A controller makes another one in its place."""


def decide(policy: Policy, case: Case) -> Repair:
    """The remedy for one pod."""
    if case.redirected:
        return Repair.NOTHING
    missed = case.member_from_start and not case.seen_by_plugin
    if policy == "evict" and missed and case.replaceable:
        return Repair.EVICT
    return Repair.MEND
