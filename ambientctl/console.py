"""What all commands share: running a task, and failing with one clear line."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ambient.api.errors import MeshError

T = TypeVar("T")


def run(task: Callable[[], Awaitable[T]]) -> T:
    """Run an async task to its end; a MeshError inside exception groups is raised bare."""
    import trio  # a fifth of a second, which commands without tasks need not wait for

    async def whole() -> T:
        return await task()

    try:
        return trio.run(whole)
    except BaseExceptionGroup as group:
        error = only_mesh_error(group)
        if error is None:
            raise
        raise error from None


def only_mesh_error(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    """The first MeshError of a group that holds nothing worse; None otherwise."""
    import trio

    found, rest = group.split(MeshError)
    if found is None or (rest is not None and rest.split(trio.Cancelled)[1] is not None):
        return None
    leaf: BaseException = found
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, MeshError)
    return leaf


def fail_clearly(command: Callable[[], object]) -> int:
    """Run a command and return its exit status.

    A MeshError becomes ``error: ...`` and ``hint: ...`` on standard error and its ``exit_code``;
    Ctrl-C exits with 130 (POSIX: 128 + SIGINT).
    """
    try:
        command()
    except MeshError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0
