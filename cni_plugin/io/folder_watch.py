"""Wait until somebody changes a folder's files (inotify).

A runtime that reads its configuration between another network plugin's rewriting and ours starts
pods outside the mesh, so the answer should come in milliseconds. Where the kernel gives no watch
(the limit of an unprivileged user, some network file systems) the folder is looked at in turns.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

LOOK_S: Final = 1.0
"""Between two looks at a folder without a watch; also the longest wait with one, since a folder
that is replaced by another one (a new mount) tells nobody."""
_CLOEXEC_NONBLOCK: Final = os.O_CLOEXEC | os.O_NONBLOCK  # IN_CLOEXEC | IN_NONBLOCK
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80  # linux/inotify.h
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_CHANGES: Final = (
    _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
)
_EVENTS_BYTES: Final = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Changes since it was made, or since the last ``changed``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def changed(self) -> None:
        """Return soon after a change, at the latest after ``LOOK_S``."""
        with trio.move_on_after(LOOK_S):
            if self._fd < 0:
                await trio.sleep_forever()
            await trio.lowlevel.wait_readable(self._fd)
            os.read(self._fd, _EVENTS_BYTES)  # which of them it was, the next look tells


@contextmanager
def watch(folder: str) -> Iterator[FolderWatch]:
    """A watch that begins now."""
    fd = _libc.inotify_init1(_CLOEXEC_NONBLOCK)
    try:
        if fd >= 0 and _libc.inotify_add_watch(fd, folder.encode(), _CHANGES) < 0:
            os.close(fd)
            fd = -1
        yield FolderWatch(fd)
    finally:
        if fd >= 0:
            os.close(fd)
