"""Connections that are not HTTP: sniffed or declared, judged once, relayed as they are."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from ambient.api.service import AppProtocol, Port
from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.core.test_client_hello import hello
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.sample import (
    WAYPOINT,
    config,
    policy,
    service,
    subsets,
    to_subset,
    workload,
)

BOTH = ("127.0.1.1", "127.0.1.2")


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


async def greeting(stream):
    await stream.send_all(b"220 ready\r\n")
    await echo(stream)


def declare(mesh, protocol: AppProtocol) -> None:
    changed = service(ports=(Port(9080, 9080, protocol),))
    mesh.state.apply(ADDRESS_TYPE, {str(changed.key): changed})


@pytest.mark.parametrize("hbone", [True, False])
async def test_bytes_and_half_closes_pass(hbone):
    async with rig(apps=False, hbone=hbone) as mesh:
        declare(mesh, AppProtocol.TCP)
        for ip in BOTH:
            await mesh.app(ip, echo)
        stream = await mesh.open()
        await stream.send_all(b"x" * 300_000)
        await stream.send_eof()
        received = 0
        while data := await stream.receive_some():
            received += len(data)
        assert received == 300_000
        assert sum(mesh.tunnels.values()) == hbone


@pytest.mark.parametrize(
    "first", [b"SSH-2.0-x\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02"]
)
async def test_what_does_not_look_like_http_is_relayed(first):
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.UNKNOWN)
        for ip in BOTH:
            await mesh.app(ip, echo)
        stream = await mesh.open()
        await stream.send_all(first)
        assert await stream.receive_some() == first


async def test_what_looks_like_http_is_http():
    async with rig() as mesh:
        declare(mesh, AppProtocol.UNKNOWN)
        mesh.configure(policy([{"to": [{"operation": {"methods": ["DELETE"]}}]}], "DENY"))
        stream = await mesh.open()
        for piece in (b"DEL", b"ETE / HT", b"TP/1.1\r\nhost: x\r\n\r\n"):
            await stream.send_all(piece)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 403")


async def test_a_silent_client_waits_for_the_server():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.UNKNOWN)
        for ip in BOTH:
            await mesh.app(ip, greeting)
        stream = await mesh.open()
        assert await stream.receive_some() == b"220 ready\r\n"


@pytest.mark.parametrize(
    ("rule", "action"),
    [
        ({"from": [{"source": {"namespaces": ["shop"]}}]}, "DENY"),
        ({"to": [{"operation": {"methods": ["GET"]}}]}, "DENY"),  # what is left of it matches all
        ({"to": [{"operation": {"methods": ["GET"]}}]}, "ALLOW"),  # HTTP cannot be shown
    ],
)
async def test_policy_ends_the_connection_before_a_byte_goes_up(rule, action):
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        mesh.configure(policy([rule], action))
        for ip in BOTH:
            await mesh.app(ip, echo)
        stream = await mesh.open()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert not mesh.calls


async def test_unreachable_endpoints_end_the_connection():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        await mesh.app(BOTH[1], echo)
        for _ in range(3):  # the other endpoint takes over
            stream = await mesh.open()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        stream = await mesh.open()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_a_pods_own_address():
    async with rig() as mesh:
        pod = workload("reviews-v1", "127.0.1.1", "v1", waypoint=WAYPOINT)
        mesh.state.apply(ADDRESS_TYPE, {pod.uid: pod})
        caller = await mesh.caller("127.0.1.1:9080")
        assert (await caller.get()).headers["x-version"] == "v1"


def named(version):
    async def app(stream):
        await stream.receive_some()
        await stream.send_all(version)

    return app


def stream_rules(**rules):
    spec = {"hosts": ["reviews"], **rules}
    return config("VirtualService", "streams", spec)


async def answer(mesh, first=b"hello"):
    stream = await mesh.open()
    try:
        await stream.send_all(first)
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return None


async def test_connections_are_shared_by_weight():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        await mesh.app(BOTH[0], named(b"v1"))
        await mesh.app(BOTH[1], named(b"v2"))
        route = [to_subset("v1", 3), to_subset("v2", 1)]
        mesh.configure(subsets(), stream_rules(tcp=[{"route": route}]))
        found = Counter([await answer(mesh) for _ in range(60)])
        assert found[b"v1"] + found[b"v2"] == 60
        assert 25 < found[b"v1"] < 60
        mesh.configure(subsets(), stream_rules(tcp=[{"route": [to_subset("v2")]}]))
        assert {await answer(mesh) for _ in range(5)} == {b"v2"}
        mesh.configure(stream_rules(tcp=[{"route": [{"destination": {"host": "nobody"}}]}]))
        assert await answer(mesh) is None


async def test_the_server_name_chooses():
    rules = [
        {"match": [{"sniHosts": ["one.example.com"]}], "route": [to_subset("v1")]},
        {"match": [{"sniHosts": ["*.example.com"]}], "route": [to_subset("v2")]},
    ]
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TLS)
        await mesh.app(BOTH[0], named(b"v1"))
        await mesh.app(BOTH[1], named(b"v2"))
        mesh.configure(subsets(), stream_rules(tls=rules))
        for name, version in (("one.example.com", b"v1"), ("two.example.com", b"v2")):
            assert {await answer(mesh, hello(name)) for _ in range(4)} == {version}


async def test_policies_know_the_server_name():
    condition = {"key": "connection.sni", "values": ["secret.example.com"]}
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TLS)
        for ip in BOTH:
            await mesh.app(ip, named(b"welcome"))
        mesh.configure(policy([{"when": [condition]}], "DENY"))
        assert await answer(mesh, hello("secret.example.com")) is None
        assert await answer(mesh, hello("other.example.com")) == b"welcome"


def tcp_pool(**tcp):
    policy = {"connectionPool": {"tcp": tcp}}
    return config("DestinationRule", "reviews", {"host": "reviews", "trafficPolicy": policy})


async def test_connections_end_when_they_are_idle_or_old():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        for ip in BOTH:
            await mesh.app(ip, echo)
        for pool in (tcp_pool(idleTimeout="0.3s"), tcp_pool(maxConnectionDuration="0.3s")):
            mesh.configure(pool)
            stream = await mesh.open()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_connections_that_are_too_many_are_closed():
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        for ip in BOTH:
            await mesh.app(ip, echo)
        mesh.configure(tcp_pool(maxConnections=1))
        first = await mesh.open()
        await first.send_all(b"x")
        assert await first.receive_some() == b"x"
        assert await answer(mesh) is None
        await first.send_eof()
        assert await first.receive_some() == b""
        while mesh.upstreams.active:
            await trio.sleep(0.01)
        assert await answer(mesh) == b"hello"


async def test_one_source_reaches_one_endpoint():
    balancer = {"consistentHash": {"useSourceIp": True}}
    rule = {"host": "reviews", "trafficPolicy": {"loadBalancer": balancer}}
    async with rig(apps=False) as mesh:
        declare(mesh, AppProtocol.TCP)
        await mesh.app(BOTH[0], named(b"v1"))
        await mesh.app(BOTH[1], named(b"v2"))
        mesh.configure(config("DestinationRule", "reviews", rule))
        assert len({await answer(mesh) for _ in range(8)}) == 1
