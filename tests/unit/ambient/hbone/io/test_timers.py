"""Alarms ring when their time has come, and not when they were taken back."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from ambient.hbone.io.timers import COARSE_S, FINE_S, LONG_S, Timers


class Bell:
    def __init__(self) -> None:
        self.rang_s: list[float] = []

    def ring(self) -> None:
        self.rang_s.append(trio.current_time())


@asynccontextmanager
async def timers():
    made = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture
def clock():
    return MockClock(autojump_threshold=0)


@pytest.mark.parametrize(
    ("after_s", "step_s"), [(0.0, FINE_S), (0.5, FINE_S), (LONG_S + 1, COARSE_S)]
)
def test_an_alarm_is_never_early_and_a_step_late_at_most(clock, after_s, step_s):
    async def main() -> None:
        async with timers() as made:
            bell, when_s = Bell(), trio.current_time() + after_s
            made.set(when_s, bell, trio.current_time())
            await trio.sleep(after_s + 1)
            (rang_s,) = bell.rang_s
            assert when_s <= rang_s <= when_s + step_s + 1e-6

    trio.run(main, clock=clock)


def test_a_later_alarm_does_not_hold_up_an_earlier_one(clock):
    async def main() -> None:
        async with timers() as made:
            late, soon = Bell(), Bell()
            made.set(trio.current_time() + 60, late, trio.current_time())
            await trio.testing.wait_all_tasks_blocked()
            made.set(trio.current_time() + 1, soon, trio.current_time())
            await trio.sleep(2)
            assert len(soon.rang_s) == 1
            assert not late.rang_s

    trio.run(main, clock=clock)


def test_what_is_taken_back_does_not_ring(clock):
    async def main() -> None:
        async with timers() as made:
            bell, other = Bell(), Bell()
            hold = made.set(trio.current_time() + 1, bell, trio.current_time())
            made.set(trio.current_time() + 1, other, trio.current_time())
            made.take_back(hold)
            await trio.sleep(2)
            made.take_back(hold)  # too late: nothing happens
            assert not bell.rang_s
            assert len(other.rang_s) == 1

    trio.run(main, clock=clock)


def test_an_alarm_may_set_the_next_and_take_back_its_neighbour(clock):
    async def main() -> None:
        async with timers() as made:
            rung: list[str] = []

            class Chain:
                def __init__(self, name: str) -> None:
                    self.name = name

                def ring(self) -> None:
                    rung.append(self.name)
                    for hold in holds:
                        made.take_back(hold)
                    if len(rung) < 3:
                        holds.append(
                            made.set(trio.current_time() + 1, Chain("next"), trio.current_time())
                        )

            holds = [
                made.set(trio.current_time() + 1, Chain(name), trio.current_time())
                for name in ("a", "b")
            ]
            await trio.sleep(10)
            assert len(rung) >= 3

    trio.run(main, clock=clock)
