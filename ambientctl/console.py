"""What all commands share: running a task, and failing with one clear line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click

from ambient.api.errors import MeshError

T = TypeVar("T")
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C (POSIX: 128 + SIGINT)."""


def run(task: Callable[[], Awaitable[T]]) -> T:
    """Run an async task to its end; what it told in exception groups is raised bare.

    Raises SystemExit with 130 after Ctrl-C.
    """
    import trio  # a fifth of a second, which commands without tasks need not wait for

    async def whole() -> T:
        return await task()

    try:
        return trio.run(whole)
    except KeyboardInterrupt:
        raise _interrupted() from None
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise _interrupted() from None
        told = only(group, MeshError, click.ClickException, click.Abort, SystemExit,
                    BrokenPipeError)  # fmt: skip
        if told is None:
            raise
        raise told from None


def _interrupted() -> SystemExit:
    print("\ninterrupted", file=sys.stderr)
    return SystemExit(INTERRUPTED)


def only(
    group: BaseExceptionGroup[BaseException], *kinds: type[BaseException]
) -> BaseException | None:
    """The first exception of these kinds in a group that holds nothing worse; None otherwise."""
    import trio

    found, rest = group.split(kinds)
    if found is None or (rest is not None and rest.split(trio.Cancelled)[1] is not None):
        return None
    leaf: BaseException = found
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


def only_mesh_error(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    """The first MeshError of a group that holds nothing worse; None otherwise."""
    leaf = only(group, MeshError)
    assert leaf is None or isinstance(leaf, MeshError)
    return leaf


def fail_clearly(command: Callable[[], object]) -> int:
    """Run a command and return its exit status.

    A MeshError becomes ``error: ...`` and ``hint: ...`` on standard error and its ``exit_code``;
    click's own errors stay what they are, only that Ctrl-C exits with 130.
    """
    try:
        return _said(command)
    except BrokenPipeError:  # nobody reads any more, as after ``head``; click does the same
        _quiet()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _quiet()
        print(f"error: cannot write the answer: {error.strerror}", file=sys.stderr)
        return 1


def _quiet() -> None:
    """Python flushes standard output once more at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(command: Callable[[], object]) -> int:
    try:
        status = command()
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise _interrupted() from None
        print("Aborted!", file=sys.stderr)
        return 1
    except MeshError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        raise _interrupted() from None
    return status if isinstance(status, int) else 0
