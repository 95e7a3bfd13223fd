"""What a program does about its memory: what only the start needed goes back to the kernel."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

_MADV_DONTNEED: Final = 4  # linux/mman.h
_SETTLED_S: Final = 3.0
"""After the start, when the first certificates are there."""
_AGAIN_S: Final = 600.0


class Mapping(NamedTuple):
    """A range of addresses of this process."""

    start: int
    size: int


async def keep_small() -> None:
    """Give back what a start, and later a rare event like a new certificate, has left behind.

    The collector looks at what is old only after very many new objects, and connections that were
    open for long are old when they end: all is looked at here, once in a while.
    """
    settle_memory()
    await trio.sleep(_SETTLED_S)
    while True:
        gc.collect()
        trim()
        release_libraries()
        await trio.sleep(_AGAIN_S)


def settle_memory() -> None:
    """After the start: what there is stays, so the collector need not look at it again, and what
    the start left over goes back to the kernel (a first answer of a large mesh takes megabytes).
    """
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Let malloc give back what it has free."""
    with suppress(AttributeError, OSError):  # musl has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def release_libraries() -> None:
    """Let go of the pages of mapped libraries. What is used comes back from the page cache, by a
    fault for 64 kB; what only the start has touched (half of gRPC) stays away.
    """
    with suppress(AttributeError, OSError):
        advise = ctypes.CDLL(None).madvise
        with Path("/proc/self/smaps").open() as lines:
            for start, size in unchanged(list(lines)):
                advise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def unchanged(lines: Iterable[str]) -> Iterator[Mapping]:
    """The mappings in ``/proc/PID/smaps`` that hold nothing but what is in their file: private,
    not writable, and no page of them was ever copied (proc(5)).
    """
    found: Mapping | None = None
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            begin, end = (int(part, 16) for part in words[0].split("-"))
            of_file = words[1][1] == "-" and words[1][3] == "p" and words[4] != "0"
            found = Mapping(begin, end - begin) if of_file else None
        elif words[0] == "Anonymous:" and words[1] == "0" and found is not None:
            yield found
