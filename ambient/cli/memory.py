"""What a program does about its memory when it has started."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def settle_memory() -> None:
    """After the start: what there is stays, so the collector need not look at it again, and what
    the start left over goes back to the kernel (a first answer of a large mesh takes megabytes).
    """
    gc.collect()
    gc.freeze()
    with suppress(AttributeError, OSError):  # musl has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
