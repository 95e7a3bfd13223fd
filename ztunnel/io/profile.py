"""What this process spends its time and its memory on, asked for while it runs.

The profiler is a thread that looks at the stack of every thread some hundred times a second: it
costs a few percent while it runs and nothing before. Collapsed stacks are what flame graph tools
read (``frame;frame;frame count``, the innermost frame last).
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Final

import trio

from ambient.cli.memory import trim
from ambient.telemetry.io.http import Request, Response, Routes

SECONDS: Final = (1, 10, 300)
"""Least, default and most of ``seconds``; ztunnel's."""
FREQUENCY: Final = (1, 100, 1000)
"""Samples a second; ztunnel's."""
MAX_DEPTH: Final = 100
SHOWN_TYPES: Final = 40
_IDLE: Final = frozenset({"epoll", "select", "wait", "_wait_for_tstate_lock", "get"})
"""Innermost functions of a thread that waits."""


def profile_routes() -> Routes:
    """``/debug/pprof/profile`` and ``/debug/pprof/heap``."""
    routes = Routes()
    routes.add("/debug/pprof/profile", _Profiler().profile, methods=())
    routes.add("/debug/pprof/heap", heap, methods=())
    return routes


class _Profiler:
    """One profile at a time."""

    def __init__(self) -> None:
        self._busy = False

    async def profile(self, request: Request) -> Response:
        """Collapsed stacks of ``seconds`` at ``frequency`` samples a second; ``idle`` for all."""
        try:
            seconds = _within(request, "seconds", SECONDS)
            frequency = _within(request, "frequency", FREQUENCY)
        except ValueError as error:
            return Response(400, f"{error}\n")
        if self._busy:
            return Response(409, "a profile is being taken already; ask again when it is done\n")
        self._busy = True
        stop = threading.Event()
        try:
            stacks = await trio.to_thread.run_sync(
                _sample, seconds, frequency, "idle" in request.query, stop, abandon_on_cancel=True
            )
        finally:
            stop.set()
            self._busy = False
        lines = (f"{stack} {count}\n" for stack, count in stacks.most_common())
        return Response(200, "".join(lines))


def _within(request: Request, name: str, bounds: tuple[int, int, int]) -> int:
    least, default, most = bounds
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise ValueError(f"{name}={text!r} is not a whole number from {least} to {most}")
    return int(text)


def _sample(seconds: int, frequency: int, idle: bool, stop: threading.Event) -> Counter[str]:
    """On a thread of its own."""
    stacks: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    me = threading.get_ident()
    while time.monotonic() < ends and not stop.wait(1 / frequency):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident == me or (frame.f_code.co_name in _IDLE and not idle):
                continue
            stacks[_collapsed(names.get(ident, "foreign"), frame)] += 1
    return stacks


def _collapsed(thread: str, innermost: FrameType) -> str:
    frames: list[str] = []
    frame: FrameType | None = innermost
    while frame is not None and len(frames) < MAX_DEPTH:
        module = frame.f_globals.get("__name__", "?")
        frames.append(f"{module}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return ";".join([thread.replace(";", ","), *reversed(frames)])


async def heap(request: Request) -> Response:
    """Objects by type with their own size, and what the kernel says of the process; ``gc``: after
    what nobody holds any more was given back.
    """
    if "gc" in request.query:
        gc.collect()
        trim()
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for thing in gc.get_objects():
        name = f"{type(thing).__module__}.{type(thing).__qualname__}"
        counts[name] += 1
        sizes[name] += sys.getsizeof(thing, 0)
    statistics = trio.lowlevel.current_statistics()
    lines = [
        f"resident_kb {_resident_kb()}",
        f"descriptors {len(os.listdir('/proc/self/fd'))}",
        f"threads {threading.active_count()}",
        f"tasks {statistics.tasks_living}",
        f"objects {sum(counts.values())} (and {gc.get_freeze_count()} from the start)",
        "",
        "bytes objects type",
        *(f"{size} {counts[name]} {name}" for name, size in sizes.most_common(SHOWN_TYPES)),
    ]
    return Response(200, "\n".join(lines) + "\n")


def _resident_kb() -> int:
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
