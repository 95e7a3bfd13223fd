"""Alarms that are rarely rung: almost all are taken back before their time.

A timer of trio's own costs each request a place in an ordered tree, twice. Here alarms of about the
same time share one: they ring up to ``step`` late, never early.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple, Protocol

import trio

FINE_S: Final = 0.01
COARSE_S: Final = 0.1
LONG_S: Final = 2.0
"""From this time on nobody feels the coarse step."""


class Alarm(Protocol):
    """Who is told."""

    def ring(self) -> None:
        """Its time has come; called once, in a task of the relay."""


class Hold(NamedTuple):
    """An alarm that was set, to be taken back."""

    due_s: float
    alarm: Alarm


class Timers:
    """Alarms by the time when they ring. ``run`` has to be running."""

    def __init__(self) -> None:
        self._due: list[float] = []
        self._alarms: dict[float, set[Alarm]] = {}
        self._sooner = trio.Event()

    def set(self, when_s: float, alarm: Alarm, now_s: float) -> Hold:
        """Ring ``alarm`` at a time of trio's clock, or at once where it has passed."""
        step = COARSE_S if when_s - now_s > LONG_S else FINE_S
        due_s = (when_s // step + 1) * step
        alarms = self._alarms.get(due_s)
        if alarms is None:
            alarms = self._alarms[due_s] = set()
            heapq.heappush(self._due, due_s)
            if self._due[0] == due_s:
                self._sooner.set()
        alarms.add(alarm)
        return Hold(due_s, alarm)

    def take_back(self, hold: Hold) -> None:
        """Do not ring; nothing happens where it has rung."""
        alarms = self._alarms.get(hold.due_s)
        if alarms is not None:
            alarms.discard(hold.alarm)

    async def run(self) -> None:
        """Ring what is due until cancelled."""
        while True:
            self._sooner = trio.Event()
            while self._due and self._due[0] <= trio.current_time():
                for alarm in self._alarms.pop(heapq.heappop(self._due)):
                    alarm.ring()
            with trio.move_on_at(self._due[0] if self._due else float("inf")):
                await self._sooner.wait()
