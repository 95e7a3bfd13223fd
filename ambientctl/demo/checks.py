"""What a check is, and how a list of them is played."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
import trio

from ambient.api.errors import MeshError

S = TypeVar("S")


class CheckFailedError(MeshError):
    """The check looked, and what it saw is not what the mesh promises."""


class Check(NamedTuple, Generic[S]):
    """One step of the story: ``run`` returns what it saw, or raises."""

    name: str
    run: Callable[[S], Awaitable[str]]
    deadline_s: float = 60.0


class Outcome(msgspec.Struct, frozen=True):
    """What became of a check; field names are those of ``--json``."""

    name: str
    ok: bool
    detail: str
    seconds: float


async def play(
    checks: Sequence[Check[S]], stage: S, told: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run the checks in order; after a failure the others are reported as not reached.

    Each step builds on the one before it, so going on would only hide the first failure.
    """
    outcomes: list[Outcome] = []
    for check in checks:
        if outcomes and not outcomes[-1].ok:
            outcome = Outcome(check.name, False, "not reached", 0.0)
        else:
            outcome = await attempt(check, stage)
        outcomes.append(outcome)
        told(outcome)
    return outcomes


async def attempt(check: Check[S], stage: S) -> Outcome:
    """Run one check within its deadline; a failure becomes an outcome, never an exception."""
    began = trio.current_time()
    ok, detail = False, f"no result within {check.deadline_s:g} s"
    with trio.move_on_after(check.deadline_s):
        try:
            ok, detail = True, await check.run(stage)
        except MeshError as error:
            detail = f"{error} ({error.hint})" if error.hint else str(error)
        except ExceptionGroup as group:
            errors, rest = group.split(MeshError)
            if errors is None or rest is not None:
                raise
            detail = "; ".join(str(leaf) for leaf in errors.exceptions)
    return Outcome(check.name, ok, detail, round(trio.current_time() - began, 2))
