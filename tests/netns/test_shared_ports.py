"""The tunnel speaks to an application in its client's name, from a port of its own choice.

The client may use that port too, for a connection of its own to the same application: then two
connections in the pod have the same addresses and ports, and must not meet.
"""

import socket
from contextlib import AsyncExitStack

import pytest
import trio

from ambient.net.io import bpf_programs, net_settings
from tests.netns.lan import echo, exchange
from tests.netns.tunnel import Tunnel, running

pytestmark = [
    pytest.mark.netns,
    pytest.mark.usefixtures("each_backend"),
]

PORT = 8080
CHOICE = range(40000, 40008)
"""What the tunnel may choose from."""


@pytest.fixture(autouse=True)
def few_ports(monkeypatch):
    """Where the redirection chooses, not the pod's kernel."""
    monkeypatch.setattr(bpf_programs, "DIAL_PORTS", CHOICE)


def listen():
    return socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)


class Scene:
    """A client outside the mesh and an application that counts what it hears from where."""

    def __init__(self, outsider, api, host, stack):
        self._outsider, self._api, self._host, self._stack = outsider, api, host, stack
        self.ports = []
        """Ports from which the application was spoken to."""

    async def serve(self, nursery):
        listener = self._api.netns.run(listen)
        listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

        async def one(stream):
            self.ports.append(stream.socket.getpeername()[1])
            try:
                await echo(stream, "")
            except trio.BrokenResourceError:
                return

        await nursery.start(trio.serve_listeners, one, [listening])

    async def connect(self, port):
        """From that port of the client, and used once; it stays open."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sock = self._outsider.netns.run(socket.socket, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.setblocking(False)
        client = self._stack.enter_context(trio.socket.from_stdlib_socket(sock))
        with trio.fail_after(8):
            await client.connect((self._host, PORT))
            stream = trio.SocketStream(client)
            assert await exchange(stream, b"hello") == b"hello"
        return stream


@pytest.fixture(params=["ip", "ip6"])
async def scene(lan, request):
    outsider, api = lan.pod("outsider"), lan.pod("api")
    bounds = f"{CHOICE[0]} {CHOICE[-1]}".encode()
    net_settings.write(api.netns, {"ipv4/ip_local_port_range": bounds})
    tunnel = Tunnel()
    async with running(tunnel) as nursery, AsyncExitStack() as stack:
        made = Scene(outsider, api, getattr(api, request.param), stack)
        await made.serve(nursery)
        await tunnel.enrol(api)
        yield made


async def test_a_client_comes_from_the_port_that_the_tunnel_has_chosen(scene):
    first = await scene.connect(50000)
    (chosen,) = scene.ports
    assert chosen in CHOICE
    second = await scene.connect(chosen)
    for stream in (first, second, first):
        assert await exchange(stream, b"still") == b"still"
    await second.aclose()
    assert await exchange(first, b"alone") == b"alone"


async def test_the_tunnel_chooses_no_port_that_its_client_uses(scene):
    used = [await scene.connect(port) for port in CHOICE[:3]]
    for stream in used:
        assert await exchange(stream, b"still") == b"still"
    assert len(set(scene.ports)) == 3
