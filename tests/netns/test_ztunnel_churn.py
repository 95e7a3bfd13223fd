"""Pods come, work and go: what the tunnel holds for them goes with them."""

import functools
import gc
import io
import os

import pytest
import trio

from ambient.identity.io.cert_store import WARM_UP_AT_ONCE
from ambient.net.core import rules
from ambient.net.io import nft
from ambient.telemetry.io.logs import levels
from tests.netns.lan import echo, exchange, read_all
from tests.netns.tunnel import Tunnel, capture_log, running

pytestmark = pytest.mark.netns

WARM_UP, ROUNDS = WARM_UP_AT_ONCE + 1, 4
"""Each of the tasks that fetch certificates remembers its last pod."""
OURS = ("ambient.", "ztunnel.")


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def api(lan):
    return lan.pod("api")


@pytest.fixture
def log():
    return capture_log(io.StringIO())


def tasks():
    """How many tasks trio runs."""
    counted, waiting = 0, [trio.lowlevel.current_root_task()]
    while waiting:
        counted += 1
        for nursery in waiting.pop().child_nurseries:
            waiting.extend(nursery.child_tasks)
    return counted


def forget():
    """Empty what our functions remember; each has a bound."""
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper) and one.__module__.startswith(OURS):
            assert one.cache_info().maxsize, one
            one.cache_clear()


def held():
    """Descriptors, tasks, and our objects by class."""
    forget()
    gc.collect()
    objects = {}
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith(OURS):
            objects[kind.__qualname__] = objects.get(kind.__qualname__, 0) + 1
    return len(os.listdir("/proc/self/fd")), tasks(), objects


def grown(before, after):
    """What there is more of; what earlier tests left may go meanwhile."""
    return {kind: n for kind, n in after.items() if n > before.get(kind, 0)}


async def test_pain_30_pods_that_come_and_go_leave_nothing(lan, web):
    tunnel = Tunnel(connection_termination_deadline_s=0.05)

    async def one_round(name):
        """A pod joins, is called, calls, and is deleted with its connections open."""
        async with trio.open_nursery() as servers:
            pod = lan.pod(name)
            await pod.serve(8080, echo, servers)
            await tunnel.enrol(pod)
            inward, outward = await web.dial(pod.ip, 8080), await pod.dial(web.ip, 8080)
            for stream in (inward, outward):
                assert await exchange(stream, b"works") == b"works"
            tunnel.leave(pod)
            with trio.fail_after(30):
                while tunnel.pods.stopped < tunnel.pods.started - 1:
                    await trio.sleep(0.005)
            servers.cancel_scope.cancel()
        for stream in (inward, outward):
            await trio.aclose_forcefully(stream)
        lan.remove(pod)

    async with running(tunnel) as nursery:
        await web.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        # One name again and again: what the control plane knows is no part of this.
        for _ in range(WARM_UP):
            await one_round("guest")
        before = held()
        for _ in range(ROUNDS):
            await one_round("guest")
        with trio.move_on_after(10):  # what is being closed takes its time
            while grown(before[2], (after := held())[2]) or after[:2] != before[:2]:
                await trio.sleep(0.05)
        assert after[:2] == before[:2], "descriptors, tasks"
        assert grown(before[2], after[2]) == {}, "objects"


async def test_pain_28_a_pod_without_ipv6_is_served(lan, web, log):
    plain = lan.pod("plain")
    plain.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await plain.serve(8080, echo, nursery)
        for pod in (plain, web):
            await tunnel.enrol(pod)
        async with await web.dial(plain.ip, 8080) as stream:
            assert await exchange(stream, b"over IPv4") == b"over IPv4"
        assert {line["dst.workload"] for line in await log.wait(2)} == {"plain"}


async def test_pain_31_a_slow_reader_loses_nothing_and_delays_nobody(web, api, log):
    """And that a connection has begun is logged when it begins, for those who ask for it."""
    tunnel = Tunnel()
    size = 32 << 20  # more than all windows and socket buffers in between

    async def flood(stream, peer):
        await stream.send_all(bytes(size))
        await stream.send_eof()

    async with running(tunnel) as nursery:
        await api.serve(8080, flood, nursery)
        await api.serve(8081, echo, nursery)
        for pod in (web, api):
            await tunnel.enrol(pod)
        levels.update("access=debug")
        async with await web.dial(api.ip, 8080) as slow:
            await log.wait(2, "connection opened")
            assert not log.lines()
            with trio.fail_after(30):
                async with await web.dial(api.ip, 8081) as quick:  # in the same tunnel
                    for _ in range(50):
                        assert await exchange(quick, b"no waiting") == b"no waiting"
            received = 0
            async for chunk in slow:
                received += len(chunk)
            assert received == size


async def test_a_pod_in_a_new_namespace_under_the_same_uid(lan, web):
    """The old one's connections end at once; the new one is served."""
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await tunnel.enrol(web)
        first = lan.pod("first")
        await first.serve(8080, echo, nursery)
        await tunnel.enrol(first)
        async with await web.dial(first.ip, 8080) as stream:
            await exchange(stream, b"x")
            second = lan.pod("second")
            second.name = "first"  # the same pod, as far as the agent and the control plane know
            await second.serve(8080, echo, nursery)
            nft.apply(second.netns, rules.enrolled(rules.Options()))
            await tunnel.enrol(second)
            assert not await read_all(stream)
        second.name = "second"
        async with await web.dial(second.ip, 8080) as stream:
            assert await exchange(stream, b"again") == b"again"
