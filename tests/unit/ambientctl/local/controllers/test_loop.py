"""The loop: every key once, refusals tried again, nothing to do while nothing happens."""

from __future__ import annotations

import trio
import trio.testing

from ambientctl.local.apiserver.core.kinds import SERVICES
from ambientctl.local.apiserver.core.status import conflict
from ambientctl.local.controllers.loop import RETRY_FIRST_S, Controller, key_of, run_controller
from tests.unit.ambientctl.local.worlds import service


def recording(looked, refusals=0):
    """A controller that notes what it looks at, and is refused so many times."""
    left = [refusals]

    def decide(_cluster, key):
        looked.append(key)
        if left[0]:
            left[0] -= 1
            raise conflict("", "services", key[1])
        return []

    return Controller("tester", (SERVICES,), lambda _, change: [key_of(change)], decide)


async def test_what_is_there_and_what_comes_is_looked_at(world, nursery, autojump_clock):
    looked = []
    world.create(service("a"))
    nursery.start_soon(run_controller, world.cluster, recording(looked))
    await trio.testing.wait_all_tasks_blocked()
    world.create(service("b"))
    await trio.testing.wait_all_tasks_blocked()
    assert looked == [("shop", "a"), ("shop", "b")]


async def test_many_changes_of_one_object_are_one_look(world, nursery, autojump_clock):
    looked = []
    nursery.start_soon(run_controller, world.cluster, recording(looked))
    await trio.testing.wait_all_tasks_blocked()
    made = world.create(service())
    for value in "abc":
        made = world.update({**made, "metadata": {**made["metadata"], "labels": {"x": value}}})
    await trio.testing.wait_all_tasks_blocked()
    assert looked == [("shop", "web")]


async def test_a_refusal_is_tried_again_later(world, nursery, autojump_clock):
    looked = []
    nursery.start_soon(run_controller, world.cluster, recording(looked, refusals=2))
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    world.create(service())
    await trio.sleep(RETRY_FIRST_S * 10)
    assert len(looked) == 3
    assert trio.current_time() - began >= RETRY_FIRST_S * 3


async def test_a_cancelled_controller_hears_nothing_more(world, autojump_clock):
    looked = []
    with trio.move_on_after(1):
        await run_controller(world.cluster, recording(looked))
    world.create(service())
    assert looked == []
