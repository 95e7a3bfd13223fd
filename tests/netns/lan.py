"""Pods as network namespaces on one bridge, inside the sandbox's own network namespace.

lan.pod("web")             10.77.0.2 and fd77::2, default route over the bridge
await pod.dial("10.77.0.3", 80)   as an application in the pod would, not as the tunnel
await pod.serve(80, echo, nursery)
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import trio

from ambient.api.address import HostPort
from ambient.net.io.bpf_redirect import own_networks
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import ConnectError, ListenOptions, connect_in, listen_in, peer_address
from tests.netns import backends

BRIDGE = "lan0"
BRIDGE_MAC = "02:77:00:00:00:01"
"""Of its own: else it would be the lowest of the pods', and a new pod could make everybody's ARP
entry of the gateway wrong, for half a minute."""
DEADLINE_S = 30
FOLDER = Path("/run/netns")


class Pod:
    """One namespace with an address on the bridge."""

    def __init__(self, name, number, dialled):
        self.name = name
        self._dialled = dialled
        self.link = f"v{number}"
        self.ip = f"10.77.{number // 256}.{number % 256}"
        self.ip6 = f"fd77::{number}"
        self.netns = Netns.open(FOLDER / name)

    async def dial(self, host, port, timeout_s=10.0):
        """A connected stream from inside the pod; raises ConnectError. The test's end closes it."""
        try:
            sock = await connect_in(self.netns, HostPort(host, port), timeout_s=timeout_s)
        except ConnectError as error:
            if os.strerror(errno.ECONNRESET) in str(error):
                return ResetStream()
            raise
        self._dialled.add(sock)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def serve(self, port, handler, nursery):
        """``handler(stream, peer)`` for every connection to ``port`` of the pod."""
        options = ListenOptions(transparent=False, reuse_port=False)
        listener = listen_in(self.netns, port, options).socket

        async def one(stream):
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await handler(stream, peer_address(stream.socket).host)
            await trio.aclose_forcefully(stream)

        listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        await nursery.start(partial(trio.serve_listeners, one, [listening]))

    def run(self, *command):
        """A command inside the pod; its standard output."""
        return run("ip", "netns", "exec", self.name, *command)


class ResetStream(trio.abc.HalfCloseableStream):
    """A connection that was reset between its handshake and our first look at it."""

    async def receive_some(self, max_bytes=None):
        raise trio.BrokenResourceError

    async def send_all(self, data):
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self):
        raise trio.BrokenResourceError

    async def send_eof(self):
        raise trio.BrokenResourceError

    async def aclose(self):
        await trio.lowlevel.checkpoint()


class Sockets:
    """Sockets that a test may leave open; without an owner the garbage collector complains."""

    def __init__(self):
        self._open = []
        self._look_at = 256

    def add(self, sock):
        self._open.append(sock)
        if len(self._open) >= self._look_at:
            self._open = [one for one in self._open if one.fileno() >= 0]
            self._look_at = 2 * len(self._open) + 256

    def close(self):
        for sock in self._open:
            sock.close()


class Lan:
    """A bridge and its pods."""

    def __init__(self):
        self._numbers = itertools.count(2)
        self.pods = {}
        self._dialled = Sockets()
        run("ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge")
        run("ip", "addr", "add", "10.77.0.1/16", "dev", BRIDGE)
        run("ip", "addr", "add", "fd77::1/64", "dev", BRIDGE, "nodad")
        run("ip", "link", "set", BRIDGE, "up")

    def pod(self, name):
        """A new pod."""
        number = next(self._numbers)
        run("ip", "netns", "add", name)
        pod = self.pods[name] = Pod(name, number, self._dialled)
        batch(
            f"link add v{number} type veth peer name eth0 netns {name}",
            f"link set v{number} master {BRIDGE} up",
        )
        batch(
            "link set lo up",
            f"addr add {pod.ip}/16 dev eth0",
            f"addr add {pod.ip6}/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.77.0.1",
            netns=name,
        )
        # The kernel's worker makes the address one of the pod's, when it comes to it.
        deadline = time.monotonic() + DEADLINE_S
        while ip_network(pod.ip6) not in own_networks(pod.netns):
            assert time.monotonic() < deadline, f"{name} does not get its address {pod.ip6}"
            time.sleep(0.005)
        backends.admit(pod.netns)
        return pod

    def remove(self, pod):
        """Delete a pod as the node does: its namespace and its veth are gone at once."""
        del self.pods[pod.name]
        pod.netns.close()
        # The kernel takes its time to remove what is in a namespace without users.
        run("ip", "link", "del", pod.link)
        run("ip", "netns", "del", pod.name)

    def close(self):
        self._dialled.close()
        for pod in list(self.pods.values()):
            self.remove(pod)
        run("ip", "link", "del", BRIDGE)


async def echo(stream, peer):
    """Send everything back."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def tell_peer(stream, peer):
    """Say who connected, then end."""
    await stream.send_all(peer.encode())


async def exchange(stream, data):
    """Send ``data`` and read as much back."""
    with trio.fail_after(30):
        await stream.send_all(data)
        back = b""
        while len(back) < len(data) and (more := await stream.receive_some()):
            back += more
        return back


async def read_all(stream):
    """Everything until the end; ``None`` where the connection is reset."""
    data = b""
    with trio.fail_after(30):
        try:
            async for more in stream:
                data += more
        except trio.BrokenResourceError:
            return None
    return data


def batch(*commands, netns=""):
    """Several ``ip`` commands in one process."""
    inside = ["-n", netns] if netns else []
    subprocess.run(["ip", *inside, "-batch", "-"], input="\n".join(commands), text=True, check=True)


def run(*command):
    """A command that has to succeed; its standard output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
