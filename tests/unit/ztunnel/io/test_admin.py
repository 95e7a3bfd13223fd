"""Log levels and shutdown on the admin port; the dump is tested with the program."""

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


async def ask(stopping, method, path, **query):
    routes = admin_routes(None, None, stopping, "info")
    return await routes(Request(method=method, path=path, query=query, headers={}))


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
