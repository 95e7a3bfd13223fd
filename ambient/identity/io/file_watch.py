"""A mounted file whose content somebody else replaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

LOOK_S: Final = 1.0
"""A stat call a second notices every kind of replacement, the links of a ConfigMap among them, and
costs less than being told: inotify would have to follow each folder on the way."""


async def follow_file(
    path: str,
    take: Callable[[bytes | OSError], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Give ``take`` the content now and after each change, or why it cannot be read.

    Until cancelled; starts when it was given the first time.
    """
    last = _stamp(path)
    take(_read(path))
    task_status.started()
    while True:
        await trio.sleep(LOOK_S)
        # Before reading: a change between the two is then read once more instead of missed.
        stamp = _stamp(path)
        if stamp != last:
            last = stamp
            take(_read(path))


def _read(path: str) -> bytes | OSError:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error


def _stamp(path: str) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns
