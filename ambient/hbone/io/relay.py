"""The relay: an epoll of its own under trio, plain callbacks, one send for all that a turn made.

Bytes of established connections move here and nowhere else. A task switch per event would halve
the rate, so trio tasks only wait for opening, closing and draining; the relay's epoll descriptor is
itself pollable, and one task waits for it. Rules that keep this correct:

- A descriptor is closed only at the end of a turn (``close_later``), so its number cannot be reused
  while older events of the same batch are still to be looked at.
- Whoever is not interested in reading or writing is not registered at all (see ``SocketEnd``):
  a peer that hung up would otherwise wake us for ever.
- What an event makes others do (``soon``) is done when all events of the turn were looked at.
- Output is marked (``flush_later``) and sent at the end of the turn, or, when a trio task caused
  it, in trio's next turn.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

from ambient.hbone.core.counters import Counters
from ambient.hbone.core.frames import HEAD_BYTES
from ambient.hbone.io.splice import splice
from ambient.hbone.io.timers import Timers

READ_BYTES: Final = 256 * 1024
"""Most that one socket may move in one turn: large enough to amortise the turn, small enough that
others get theirs soon (upstream's largest copy buffer has the same size)."""
_BATCH: Final = 256
"""Most events looked at in one turn."""
_LINGER_S: Final = 0.001
"""How long the relay may keep the thread when streams are busy and tasks are not: waiting in its
own epoll spares the way through trio, which costs more than moving a small message. It is the
finest step of epoll, and the most by which a task's turn is late."""
_CALM_S: Final = 0.05
"""The relay does not linger until tasks have left it alone for this long."""

Handler = Callable[[int], None]


class Closable(Protocol):
    """Something that must not outlive the relay."""

    def close(self, error: None) -> None: ...


class Flushable(Protocol):
    """Something with output that waits for the end of the turn."""

    def flush(self) -> None: ...


class Relay:
    """One per process. Everything but ``run`` must be called in the thread of ``run``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._soon: list[Callable[[], None]] = []
        self._marked: list[Flushable] = []
        self.timers = Timers()
        self._closing: list[socket.socket] = []
        self._owned: set[Closable] = set()
        self._in_turn = False
        self._tasks_active_s = time.monotonic()
        self.now_s = -math.inf
        """When the turn under way began, in seconds of trio's clock: what happens in a turn happens
        at one time."""
        self._ended = False
        self._idle_flusher = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self.buffer = bytearray(HEAD_BYTES + READ_BYTES)
        """Scratch for the read under way, with room for a frame's head in front."""
        self.view = memoryview(self.buffer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move bytes until cancelled. Owns the keep-alive tasks of the connections."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._flush_for_tasks)
                nursery.start_soon(self.timers.run)
                task_status.started()
                await self._turns()
        finally:
            self._nursery = None
            for item in list(self._owned):
                item.close(None)
            self._end_turn()
            self._ended = True
            self._handlers.clear()
            self._epoll.close()

    def own(self, item: Closable) -> None:
        """Close ``item`` when the relay ends, unless it is given up (``disown``) before."""
        self._owned.add(item)

    def disown(self, item: Closable) -> None:
        self._owned.discard(item)

    async def _turns(self) -> None:
        """One turn after the other; see ``_LINGER_S`` for when trio gets its own."""
        poll = self._epoll.poll
        epoll_fd = self._epoll.fileno()
        monotonic = time.monotonic
        trios_turn_s = monotonic()
        while True:
            now_s = monotonic()
            calm = now_s - self._tasks_active_s > _CALM_S
            linger = calm and now_s - trios_turn_s < _LINGER_S
            events = poll(_LINGER_S if linger else 0, _BATCH)
            if not events:
                await trio.lowlevel.wait_readable(epoll_fd)
                trios_turn_s = monotonic()
                continue
            self._turn(events)
            if linger:
                continue
            if len(events) > 1:
                await trio.lowlevel.checkpoint()
            else:  # there is rarely a next one already: waiting at once spares an empty poll
                await trio.lowlevel.wait_readable(epoll_fd)
            trios_turn_s = now_s

    def _turn(self, events: list[tuple[int, int]]) -> None:
        handlers = self._handlers
        self._in_turn = True
        self.now_s = trio.current_time()
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:
                handler(mask)
        self._end_turn()
        self._in_turn = False

    def _end_turn(self) -> None:
        while self._soon or self._marked:
            while self._soon:
                soon, self._soon = self._soon, []
                for call in soon:
                    call()
            marked, self._marked = self._marked, []
            for item in marked:
                item.flush()
        if self._closing:
            closing, self._closing = self._closing, []
            for sock in closing:
                sock.close()

    async def _flush_for_tasks(self) -> None:
        """Sends what trio tasks marked, after all tasks of trio's turn had theirs."""
        while True:  # begins with what was marked before this task had its first turn
            self._in_turn = True
            self.now_s = trio.current_time()
            self._end_turn()
            self._in_turn = False
            self._tasks_active_s = time.monotonic()
            await self._idle_flusher.park()

    def spawn(self, task: Callable[[], object], name: str) -> None:
        """Run a connection's background task as long as the relay runs."""
        if self._nursery is None:
            raise RuntimeError("the relay does not run")
        self._nursery.start_soon(task, name=name)  # type: ignore[arg-type]

    def soon(self, call: Callable[[], None]) -> None:
        """Call at the end of this turn, before output is sent. It must not raise."""
        self._soon.append(call)
        if not self._in_turn:
            self._idle_flusher.unpark()

    def flush_later(self, item: Flushable) -> None:
        """Have ``item.flush()`` called at the end of this turn. Marked twice is flushed twice."""
        self._marked.append(item)
        if not self._in_turn:
            self._idle_flusher.unpark()

    def watch(self, fd: int, mask: int, handler: Handler) -> None:
        """Call ``handler(events)`` when the descriptor is ready (level-triggered)."""
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)
        if not self._in_turn:
            self._tasks_active_s = time.monotonic()  # a task opens something: it has more to do

    def rewatch(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """No more calls for this descriptor, not even for events of the batch under way."""
        if self._handlers.pop(fd, None) is not None and not self._ended:
            self._epoll.unregister(fd)

    def close_later(self, sock: socket.socket) -> None:
        """Close at the end of the turn; the caller has called ``unwatch``."""
        if self._ended:
            sock.close()
            return
        self._closing.append(sock)
        if not self._in_turn:
            self._idle_flusher.unpark()

    async def splice(self, a: socket.socket, b: socket.socket, counters: Counters) -> None:
        """Plain TCP both ways, half-close mapped, until both directions have ended.

        Both sockets are closed at the end, also on cancellation. A reset on one side ends that
        direction (ztunnel does not pass resets on).
        """
        await splice(self, a, b, counters)
