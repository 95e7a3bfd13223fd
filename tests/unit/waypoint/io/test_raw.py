"""Connections that are not HTTP: sniffed or declared, judged once, relayed as they are."""

from __future__ import annotations

import pytest
import trio

from ambient.api.service import AppProtocol, Port
from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.sample import WAYPOINT, policy, service, workload

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
