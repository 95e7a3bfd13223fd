"""Peers that ask for what they may not have, and callers where they have no business."""

import io
from ipaddress import ip_address

import pytest
import trio

from ambient.api.address import HostPort, NetworkAddress
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.ports import HBONE_PORT
from ambient.api.service import NamespacedHostname, Port, Service
from ambient.api.spiffe import Identity
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.errors import ConnectRefused
from ambient.hbone.io.pool import Pool
from ambient.net.io.sockets import connect_in
from ambient.telemetry.io import logs
from tests.netns.lan import echo, exchange, read_all, tell_peer
from tests.netns.tunnel import Tunnel, capture_log, running

pytestmark = pytest.mark.netns

STRANGER = Identity("cluster.local", "shop", "stranger")
KEY = NamespacedHostname("shop", "api.shop.svc.cluster.local")


@pytest.fixture
def log():
    yield capture_log(io.StringIO())
    logs.configure()


@pytest.fixture
def api(lan):
    return lan.pod("api")


@pytest.fixture
def caller(lan):
    """A pod that speaks HBONE itself, without rules around it."""
    return lan.pod("caller")


async def connect(tunnel, caller, api, authority, identity=STRANGER):
    """A CONNECT made by hand; raises ConnectRefused."""
    pool = Pool(tunnel.node.relay)

    async def dial():
        return await connect_in(caller.netns, HostPort(api.ip, HBONE_PORT))

    tls = await tunnel.node.certs.client_context(identity)
    server = Identity("cluster.local", "shop", "api")
    with trio.fail_after(30):
        return (await pool.connect("x", ConnectRequest(authority, ()), dial, tls, {server}))[0]


async def serve(tunnel, api, nursery, handler=tell_peer):
    """``api`` with a service whose port 80 is 8080 of the pod, by number or only by the pod."""
    await api.serve(8080, handler, nursery)
    await tunnel.enrol(api, services={KEY: (Port(80, 8080),)})
    vip = NetworkAddress("", ip_address("10.96.0.7"))
    tunnel.know(Service(name="api", namespace="shop", hostname=KEY.hostname, addresses=(vip,)))


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        ("10.77.0.99:8080", 400, "ip mismatch: 10.77.0.99 != "),
        ("not an authority", 400, ""),
        ("elsewhere.shop.svc.cluster.local:80", 503, "unknown service"),
        (f"{KEY.hostname}:81", 503, "cannot resolve port"),
        ("10.77.0.2:15008", 503, "recursive call"),
    ],
)
async def test_an_authority_that_is_not_this_pods(lan, api, caller, log, authority, status, reason):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await serve(tunnel, api, nursery)
        assert api.ip == "10.77.0.2"
        with pytest.raises(ConnectRefused) as refused:
            await connect(tunnel, caller, api, authority)
        assert refused.value.status == status
        (line,) = await log.wait(1, "connection failed")
        assert reason in line["error"]


async def test_a_service_may_be_asked_for_by_name(api, caller):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await serve(tunnel, api, nursery, echo)
        stream = await connect(tunnel, caller, api, f"{KEY.hostname}:80")
        await stream.send_all(b"by name")
        with trio.fail_after(30):
            assert await stream.receive_some() == b"by name"
        stream.reset()


async def test_an_allow_policy_that_does_not_match_refuses_with_401(api, caller, log):
    tunnel = Tunnel()
    only = Match(principals=(StringMatch(MatchKind.EXACT, "cluster.local/ns/shop/sa/friend"),))
    policy = Authorization(
        name="friends",
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=Action.ALLOW,
        groups=(((only,),),),
    )
    async with running(tunnel) as nursery:
        await serve(tunnel, api, nursery)
        tunnel.know(policy)
        with pytest.raises(ConnectRefused, match=r"sa/stranger, must be") as refused:
            await connect(tunnel, caller, api, f"{api.ip}:8080")
        assert refused.value.status == 401
        (line,) = await log.wait(1)
        assert "no ALLOW policy matched (of shop/friends)" in line["error"]


async def test_another_trust_domain_gets_no_byte(api, caller, log):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await serve(tunnel, api, nursery)
        foreigner = Identity("elsewhere.example", "shop", "web")
        with pytest.raises(ConnectRefused):
            await connect(tunnel, caller, api, f"{api.ip}:8080", foreigner)
        (line,) = await log.wait(1, "connection failed")
        assert "is not of trust domain cluster.local" in line["error"]


async def test_raw_bytes_on_the_tunnels_ports_get_nowhere(lan, api, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel) as nursery:
        await serve(tunnel, api, nursery, echo)
        for pod, host in ((outsider, api.ip), (api, api.ip), (api, "127.0.0.1")):
            for port in (15001, 15006, HBONE_PORT):
                async with await pod.dial(host, port) as stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
                    answer = await read_all(stream)
                    assert answer is None or b"HTTP" not in answer
        # and the pod is served as before
        async with await outsider.dial(api.ip, 8080) as stream:
            assert await exchange(stream, b"still fine") == b"still fine"
        assert not log.events("conn.crashed")


async def test_an_uncaptured_server_is_reached_in_plain_text(lan, caller, log):
    tunnel = Tunnel()
    web = lan.pod("web")
    async with running(tunnel) as nursery:
        await caller.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        async with await web.dial(caller.ip, 8080) as stream:
            assert await exchange(stream, b"hello worl!") == b"hello worl!"
        (line,) = await log.wait(1)
        assert "src.identity" not in line
        assert "dst.identity" not in line
        assert (line["bytes_sent"], line["bytes_recv"]) == (11, 11)


async def test_connections_of_a_service_are_spread_over_its_endpoints(lan, log):
    tunnel = Tunnel()
    web, one, two = lan.pod("web"), lan.pod("one"), lan.pod("two")
    async with running(tunnel) as nursery:
        await tunnel.enrol(web)
        for pod in (one, two):
            await pod.serve(8080, echo, nursery)
            await tunnel.enrol(pod, services={KEY: (Port(80, 8080),)})
        vip = NetworkAddress("", ip_address("10.96.0.7"))
        tunnel.know(Service(name="api", namespace="shop", hostname=KEY.hostname, addresses=(vip,)))
        for number in range(1, 51):
            async with await web.dial("10.96.0.7", 80) as stream:
                await exchange(stream, b"x")
            lines = await log.wait(2 * number)
            reached = {line["dst.workload"] for line in lines}
            if reached == {"one", "two"}:
                break
        assert reached == {"one", "two"}
        assert all(line["dst.service"] == KEY.hostname for line in lines)
