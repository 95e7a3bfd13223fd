"""Coroutines in the relay's turns, and in tasks where they need one."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from ambient.hbone.io.relay import Relay
from waypoint.io.fiber import Limit, Signal, drive, in_task


@asynccontextmanager
async def relayed():
    relay = Relay()
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        with trio.fail_after(10):
            yield relay, nursery
        nursery.cancel_scope.cancel()


class Probe:
    """Notes in which task each step of a fiber runs."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, bool]] = []
        self._mine = trio.lowlevel.current_task()

    def note(self, name: str) -> None:
        self.steps.append((name, trio.lowlevel.current_task() is self._mine))


async def test_a_signal_carries_a_fiber_on_without_its_task():
    async with relayed() as (relay, nursery):
        signal, ended = Signal(), trio.Event()
        steps: list[bool] = []

        async def main() -> None:
            for _ in range(3):
                await signal.wait()
                steps.append(trio.lowlevel.current_task() is task)

        async def own() -> None:
            nonlocal task
            task = trio.lowlevel.current_task()
            await drive(relay, main())
            ended.set()

        task = None
        nursery.start_soon(own)
        while not ended.is_set():
            await trio.testing.wait_all_tasks_blocked()
            signal.wake()
        assert steps == [False, False, False]


async def test_what_needs_a_task_gets_one_and_goes_back():
    async with relayed() as (relay, nursery):
        signal, probe = Signal(), None

        async def fail_in_a_task() -> None:
            async with in_task():
                await trio.lowlevel.checkpoint()
                raise KeyError

        async def main() -> None:
            probe.note("begin")
            async with in_task():
                await trio.lowlevel.checkpoint()
                probe.note("inside")
                async with in_task():  # is there already
                    await trio.lowlevel.checkpoint()
            probe.note("behind")
            await signal.wait()
            probe.note("woken")
            with pytest.raises(KeyError):
                await fail_in_a_task()
            probe.note("end")

        async def own() -> None:
            nonlocal probe
            probe = Probe()
            await drive(relay, main())
            done.set()

        done = trio.Event()
        nursery.start_soon(own)
        await trio.testing.wait_all_tasks_blocked()
        signal.wake()
        await done.wait()
        where = dict(probe.steps)
        assert list(where) == ["begin", "inside", "behind", "woken", "end"]
        assert where["inside"]
        assert [where[name] for name in ("behind", "woken", "end")] == [False] * 3


async def test_errors_end_where_the_fiber_was_driven():
    async with relayed() as (relay, _):

        async def main() -> None:
            async with in_task():
                await trio.lowlevel.checkpoint()
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await drive(relay, main())


async def test_waiting_for_something_of_trios_outside_of_a_task_is_an_error():
    async with relayed() as (relay, _):

        async def main() -> None:
            await trio.sleep(1)

        with pytest.raises(RuntimeError, match="outside of in_task"):
            await drive(relay, main())


@pytest.mark.parametrize("task", [False, True])
async def test_a_limit_ends_what_is_inside_at_its_deadline(task):
    async with relayed() as (relay, _):
        told: list[object] = []

        async def main() -> None:
            outer, inner = Limit(), Limit()
            outer.move(trio.current_time() + 60)
            inner.move(trio.current_time() + 0.01)
            with outer:
                with inner:
                    if task:
                        async with in_task():
                            await trio.sleep_forever()
                    await Signal().wait()
                told.append((inner.cancelled_caught, outer.cancelled_caught))
                async with in_task():
                    await trio.lowlevel.checkpoint()  # what is behind goes on
                told.append("behind")

        await drive(relay, main())
        assert told == [(True, False), "behind"]


@pytest.mark.parametrize("task", [False, True])
async def test_a_limit_that_is_cancelled_takes_everything_inside_with_it(task):
    async with relayed() as (relay, nursery):
        limit, told = Limit(), []

        async def main() -> None:
            with limit:
                try:
                    with Limit():
                        if task:
                            async with in_task():
                                await trio.sleep_forever()
                        await Signal().wait()
                finally:
                    told.append("finally")
            told.append(limit.cancelled_caught)

        async def own() -> None:
            await drive(relay, main())
            done.set()

        done = trio.Event()
        nursery.start_soon(own)
        await trio.testing.wait_all_tasks_blocked()
        limit.cancel()
        await done.wait()
        assert told == ["finally", True]


async def test_a_limit_cancelled_by_what_runs_inside_ends_its_next_wait():
    async with relayed() as (relay, _):
        limit = Limit()

        async def main() -> None:
            with limit:
                limit.cancel()
                await Signal().wait()

        await drive(relay, main())
        assert limit.cancelled_caught


async def test_a_deadline_that_is_lifted_ends_nothing():
    async with relayed() as (relay, nursery):
        limit, signal = Limit(), Signal()

        async def main() -> None:
            limit.move(trio.current_time() + 0.05)
            with limit:
                limit.move(float("inf"))
                await signal.wait()

        async def later() -> None:
            await trio.sleep(0.2)
            signal.wake()

        nursery.start_soon(later)
        await drive(relay, main())
        assert not limit.cancelled_caught


@pytest.mark.parametrize("task", [False, True])
async def test_a_cancelled_task_cancels_its_fiber(task):
    async with relayed() as (relay, _):
        told = []

        async def main() -> None:
            try:
                if task:
                    async with in_task():
                        await trio.sleep_forever()
                await Signal().wait()
            finally:
                told.append("finally")
                with pytest.raises(trio.Cancelled):
                    await trio.lowlevel.checkpoint()

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drive, relay, main())
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert told == ["finally"]


async def waits(signal):
    await signal.wait()


async def test_signals_and_limits_work_in_plain_tasks_too():
    signal = Signal()
    with Limit() as limit:
        limit.move(trio.current_time() + 0.01)
        async with in_task():
            await signal.wait()
    assert limit.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, signal)
        await trio.testing.wait_all_tasks_blocked()
        signal.wake()
