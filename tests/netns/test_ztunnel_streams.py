"""Many connections in one tunnel: none waits for another one, none is lost with its tunnel."""

import pytest
import trio

from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from tests.netns.lan import echo, exchange
from tests.netns.tunnel import Tunnel, running

pytestmark = pytest.mark.netns

CHUNK = bytes(64 * 1024)


def tunnels(pod):
    found = pod.run("ss", "-Htn", "state", "established", "dport", "=", ":15008")
    return len(found.splitlines())


async def test_one_slow_reader_never_blocks_another_stream(lan):
    tunnel, web, api = Tunnel(), lan.pod("web"), lan.pod("api")
    hungry = trio.Event()
    received = 0
    sent = 0

    async def slow(stream, peer):
        nonlocal received
        await hungry.wait()
        async for data in stream:
            received += len(data)
        await stream.send_all(b"all")

    async def send_for_ever(stream):
        nonlocal sent
        while not hungry.is_set():
            await stream.send_all(CHUNK)
            sent += len(CHUNK)
        await stream.send_eof()

    async with running(tunnel) as nursery:
        await api.serve(8080, slow, nursery)
        await api.serve(8081, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        async with await web.dial(api.ip, 8080) as full, await web.dial(api.ip, 8081) as busy:
            nursery.start_soon(send_for_ever, full)
            still, before = 0, 0
            while still < 50:  # exchanges during which the other one made no progress
                assert await exchange(busy, b"ping") == b"ping"
                still = still + 1 if sent == before and sent else 0
                before = sent
            assert sent < 64 * 1024 * 1024  # what the tunnel keeps for a slow reader is bounded
            assert await exchange(busy, CHUNK * 64) == CHUNK * 64
            assert tunnels(web) == 1
            hungry.set()
            with trio.fail_after(30):
                assert await full.receive_some() == b"all"
            assert received == sent


async def test_pods_of_two_accounts_and_policies_that_change_share_nothing(lan):
    """The key of a tunnel names who we are and who may answer, not only where."""
    tunnel = Tunnel()
    web, other, api = (lan.pod(name) for name in ("web", "other", "api"))
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        for pod in (web, other, api):
            await tunnel.enrol(pod)
        only_web = StringMatch(MatchKind.SUFFIX, "/sa/web")
        tunnel.know(
            Authorization(
                name="only-web",
                namespace="shop",
                scope=Scope.NAMESPACE,
                action=Action.ALLOW,
                groups=(((Match(principals=(only_web,)),),),),
            )
        )
        async with await web.dial(api.ip, 8080) as first, await web.dial(api.ip6, 8080) as second:
            assert await exchange(first, b"v4") == b"v4"
            assert await exchange(second, b"v6") == b"v6"
            assert tunnels(web) == 2  # one for each address of the pod
            async with await other.dial(api.ip, 8080) as refused:
                with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
                    await refused.receive_some()
            assert await exchange(first, b"still") == b"still"


async def test_a_tunnel_that_says_goodbye_keeps_its_streams_and_gets_no_new_ones(lan):
    """The pod's tunnel is replaced: GOAWAY, then a new one under load."""
    west = Tunnel()
    east = Tunnel(ca=west.ca, connection_termination_deadline_s=30.0)
    heir = Tunnel(ca=west.ca)
    web, api = lan.pod("web"), lan.pod("api")
    async with running(west, east, heir) as nursery:
        await api.serve(8080, echo, nursery)
        await east.enrol(api)
        west.know(*east.node.view.state.workloads)
        heir.know(*east.node.view.state.workloads)
        await west.enrol(web)
        async with await web.dial(api.ip, 8080) as old:
            assert await exchange(old, b"before") == b"before"
            await heir.serve(api)
            east.pods.delete("api")
            for number in range(20):
                async with await web.dial(api.ip, 8080) as new:
                    text = b"during %d" % number
                    assert await exchange(new, text) == text
            assert await exchange(old, b"after") == b"after"
