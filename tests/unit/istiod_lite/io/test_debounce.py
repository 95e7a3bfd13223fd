"""100 ms after the last change, never more than 10 s after the first."""

import trio

from istiod_lite.io.debounce import Debounce


async def changes(debounce, every_s, count):
    for _ in range(count):
        debounce.note()
        await trio.sleep(every_s)


async def test_one_change_waits_for_quiet(autojump_clock):
    debounce = Debounce(0.1, 10.0)
    debounce.note()
    begun = trio.current_time()
    await debounce.first()
    await debounce.quiet()
    assert 0.09 < trio.current_time() - begun < 0.12


async def test_a_burst_is_told_once(autojump_clock):
    debounce = Debounce(0.1, 10.0)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes, debounce, 0.05, 20)
        await debounce.first()
        await debounce.quiet()
        assert 1.0 < trio.current_time() - begun < 1.2


async def test_who_never_stops_changing_is_told_of_all_the_same(autojump_clock):
    debounce = Debounce(0.1, 10.0)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes, debounce, 0.05, 1000)
        for turn in (1, 2, 3):
            await debounce.first()
            await debounce.quiet()
            assert abs(trio.current_time() - begun - 10 * turn) < 0.3
        nursery.cancel_scope.cancel()
