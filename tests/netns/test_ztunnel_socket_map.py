"""The real tunnel with the socket map: two pods, mutual TLS between them, four joined sockets."""

import hashlib
import random
import socket

import pytest
import trio

from ambient.net.io import socket_map
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.socket_map import Directions
from tests import bpf
from tests.netns.lan import echo, exchange, read_all
from tests.netns.tunnel import Tunnel, running

pytestmark = [
    pytest.mark.netns,
    pytest.mark.usefixtures("each_backend"),
    pytest.mark.skipif(bool(bpf.unavailable()), reason=bpf.unavailable() or "-"),
]


@pytest.fixture
def joined():
    bpf.mount_bpf_fs()
    with socket_map.open_socket_map("/proc") as made:
        yield made
    socket_map.remove_socket_map()


@pytest.fixture(params=["both", "none"])
def pods(request, joined, lan):
    """A client and a server, with the map and without."""
    made = [lan.pod("web"), lan.pod("api")]
    if request.param == "both":
        for pod in made:
            joined.admit(netns_cookie(pod.netns), Directions.BOTH)
    return made


async def enrolled(tunnel, pods, handler, nursery):
    web, api = pods
    await api.serve(8080, handler, nursery)
    for pod in pods:
        await tunnel.enrol(pod)
    return await web.dial(api.ip, 8080)


async def test_a_talk_through_the_mesh(pods, joined):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        async with await enrolled(tunnel, pods, echo, nursery) as stream:
            assert await exchange(stream, b"hello mesh") == b"hello mesh"
            assert joined.counts()["joined"] == (2 if joined.members() else 0)
            data = random.Random(1).randbytes(3_000_000)
            assert (
                hashlib.sha256(await exchange(stream, data)).digest()
                == hashlib.sha256(data).digest()
            )
            await stream.send_eof()
            assert await read_all(stream) == b""


async def test_urgent_data_stays_in_its_place(pods, joined):
    heard = trio.Event()

    async def after_all(stream, peer):
        data = await read_all(stream)
        heard.set()
        await stream.send_all(data)

    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        async with await enrolled(tunnel, pods, after_all, nursery) as stream:
            for part, flags in ((b"abc", 0), (b"!", socket.MSG_OOB), (b"def", 0)):
                await stream.socket.send(part, flags)
            await stream.send_eof()
            assert await read_all(stream) == b"abc!def"
            assert heard.is_set()
