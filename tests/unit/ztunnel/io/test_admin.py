"""Log levels and shutdown on the admin port; the dump is tested with the program."""

import weakref

import pytest
import trio

from ambient.telemetry.io import logs
from ambient.telemetry.io.http import Request
from ztunnel.io.admin import admin_routes


@pytest.fixture
def stopping():
    logs.configure("info")
    yield trio.Event()
    logs.configure("info")


async def ask(stopping, method, path, peer="127.0.0.1", **query):
    routes = admin_routes(None, None, stopping, "info")
    return await routes(Request(method=method, path=path, query=query, headers={}, peer=peer))


async def test_levels_are_shown_set_and_reset(stopping):
    assert (await ask(stopping, "POST", "/logging")).body == "current log level is info\n"
    assert "debug" in (await ask(stopping, "POST", "/logging", level="debug")).body
    answer = await ask(stopping, "POST", "/logging", level="access=warn,xds:error")
    assert answer.body == "current log level is debug,access=warn,xds=error\n"
    answer = await ask(stopping, "POST", "/logging", reset="", level="xds=debug")
    assert answer.body == "current log level is info,xds=debug\n"
    answer = await ask(stopping, "POST", "/logging", reset="")
    assert answer.body == "current log level is info\n"


async def test_an_unknown_level_is_refused_with_help(stopping):
    answer = await ask(stopping, "POST", "/logging", level="loud")
    assert answer.status == 400
    assert "usage:" in answer.body


async def test_shutdown_needs_a_post(stopping):
    assert (await ask(stopping, "GET", "/quitquitquit")).status == 405
    assert not stopping.is_set()
    assert (await ask(stopping, "POST", "/quitquitquit")).body == "shutdown now\n"
    assert stopping.is_set()


async def test_what_changes_something_is_only_for_this_machine(stopping):
    for path in ("/quitquitquit", "/logging"):
        assert (await ask(stopping, "POST", path, peer="10.1.2.3", level="debug")).status == 403
    assert not stopping.is_set()
    assert (await ask(stopping, "GET", "/logging", peer="10.1.2.3")).status == 200
    assert (await ask(stopping, "POST", "/logging", peer="::ffff:127.0.0.1")).status == 200
    assert (await ask(stopping, "POST", "/quitquitquit", peer="::1")).status == 200


async def test_a_profile_names_the_function_that_works(stopping):
    working = True

    def spin_in_this_test():
        while working:
            sum(range(1000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, spin_in_this_test)
        answer = await ask(stopping, "GET", "/debug/pprof/profile", seconds="1", frequency="50")
        working = False
    assert answer.status == 200
    assert "spin_in_this_test" in answer.body
    stack, _, count = answer.body.splitlines()[0].rpartition(" ")
    assert ";" in stack
    assert int(count) > 0


@pytest.mark.parametrize("query", [{"seconds": "0"}, {"seconds": "1e3"}, {"frequency": "2000"}])
async def test_a_profile_has_bounds(stopping, query):
    answer = await ask(stopping, "GET", "/debug/pprof/profile", **query)
    assert answer.status == 400
    assert "whole number from 1 to" in answer.body


async def test_the_heap_page_names_types_and_counts(stopping):
    text = (await ask(stopping, "GET", "/debug/pprof/heap")).body
    assert "builtins.function" in text
    assert int(text.split("resident_kb ")[1].split()[0]) > 1000


async def test_the_heap_page_gives_back_first_what_nobody_holds(stopping):
    class Garbage:
        pass

    one = Garbage()
    one.itself = one
    left = weakref.ref(one)
    del one
    await ask(stopping, "GET", "/debug/pprof/heap", gc="")
    assert left() is None
