"""Accepting tunnels where the process has no descriptor for one more."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager, suppress

import trio

from tests.unit.waypoint.io.rig import WAYPOINT_AT, rig
from tests.unit.waypoint.io.test_attempts import rule_of


@contextmanager
def descriptors_left(count):
    """The process has ``count`` more, until the end of the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open("/dev/null", os.O_RDONLY)
    taken = [first]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], first + 200), before[1]))
        while True:
            try:
                taken.append(os.dup(first))
            except OSError:
                break
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_descriptors_clients_wait_and_the_others_are_served(capsys):
    async with rig() as mesh:
        mesh.configure(rule_of(outlierDetection={"consecutive5xxErrors": 1}))
        caller = await mesh.caller()
        for _ in range(20):  # so that there is a tunnel to each endpoint
            assert (await caller.get()).status == 200
        with descriptors_left(1):
            newcomer = trio.socket.socket()
            await newcomer.connect(tuple(WAYPOINT_AT))
            while "accept.paused" not in capsys.readouterr().out:
                await trio.sleep(0.01)
            assert (await caller.get()).status == 200
        with newcomer:
            with suppress(ConnectionResetError):  # either says that it was accepted meanwhile
                await newcomer.send(b"no TLS")
                assert await newcomer.recv(100) == b""


async def test_an_endpoint_is_not_to_blame_for_what_we_lack():
    async with rig(hbone=False) as mesh:
        strict = {"consecutive5xxErrors": 1, "maxEjectionPercent": 100}
        mesh.configure(rule_of(outlierDetection=strict))
        caller = await mesh.caller()
        with descriptors_left(0):
            answer = await caller.get()
        assert (answer.status, answer.headers["x-envoy-overloaded"]) == (503, "true")
        assert (await caller.get()).status == 200
        (cluster,) = mesh.service.clusters
        assert cluster.counts.ejections == 0
