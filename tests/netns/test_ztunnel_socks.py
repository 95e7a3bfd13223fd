"""Applications that speak SOCKS 5 to their tunnel."""

import struct
from ipaddress import ip_address

import pytest
import trio

from ambient.api.address import NetworkAddress
from ambient.api.policy import Action, Authorization, Scope
from ambient.api.service import NamespacedHostname, Port, Service
from tests.netns.lan import echo, read_all
from tests.netns.tunnel import Tunnel, running

pytestmark = pytest.mark.netns

KEY = NamespacedHostname("shop", "api.shop.svc.cluster.local")


async def ask(pod, kind, address, port=80):
    """A SOCKS request; the stream and the answer's code."""
    stream = await pod.dial("127.0.0.1", 15080)
    await stream.send_all(b"\x05\x01\x00" + bytes((5, 1, 0, kind)) + address)
    # The application may send its first bytes right away; they must not be lost.
    await stream.send_all(struct.pack("!H", port) + b"early ")
    answer = b""
    with trio.fail_after(30):
        while len(answer) < 12 and (more := await stream.receive_some(12 - len(answer))):
            answer += more
    assert answer[:3] == b"\x05\x00\x05"
    return stream, answer[3]


@pytest.fixture
async def world(lan):
    tunnel = Tunnel(unstable_enable_socks5=True)
    web, api = lan.pod("web"), lan.pod("api")
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api, services={KEY: (Port(80, 8080),)})
        vip = NetworkAddress("", ip_address("10.96.0.7"))
        tunnel.know(Service(name="api", namespace="shop", hostname=KEY.hostname, addresses=(vip,)))
        yield tunnel, web, api


def named(text):
    return bytes([len(text)]) + text.encode()


@pytest.mark.parametrize("by", ["name", "short name", "ipv4", "ipv6"])
async def test_a_destination(world, by):
    _, web, api = world
    kind, address, port = {
        "name": (3, named(KEY.hostname), 80),
        "short name": (3, named("api"), 80),
        "ipv4": (1, ip_address("10.96.0.7").packed, 80),
        "ipv6": (4, ip_address(api.ip6).packed, 8080),
    }[by]
    stream, code = await ask(web, kind, address, port)
    async with stream:
        assert code == 0
        await stream.send_all(b"bird!")
        await stream.send_eof()
        assert await read_all(stream) == b"early bird!"


async def test_the_client_is_told_how_it_went(world):
    tunnel, web, api = world
    refused = (1, ip_address(api.ip).packed, 81), 5
    ourselves = (1, ip_address("127.0.0.1").packed, 15080), 1
    for request, expected in (refused, ourselves):
        stream, code = await ask(web, *request)
        async with stream:
            assert code == expected
            assert not await read_all(stream)
    tunnel.know(
        Authorization(name="nobody", namespace="shop", scope=Scope.NAMESPACE, action=Action.ALLOW)
    )
    stream, code = await ask(web, 1, ip_address(api.ip).packed, 8080)
    async with stream:
        assert code == 2


async def test_it_is_off_unless_asked_for(lan):
    tunnel, web = Tunnel(), lan.pod("web")
    async with running(tunnel):
        await tunnel.enrol(web)
        listening = web.run("ss", "-Htln")
        assert ":15001" in listening
        assert ":15080" not in listening
