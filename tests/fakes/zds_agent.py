"""The node agent's end of ZDS, driven by a test step by step."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from ambient.net.core.wire import Add, Hello, SnapshotSent, decode_ack, decode_hello, encode
from ambient.net.io.agent_socket import AgentListener


class ZdsAgent:
    """Serves one socket path; ``connection()`` waits for the next tunnel that says hello."""

    def __init__(self, path):
        self.path = path
        self._listener = AgentListener.bind(path)

    def close(self):
        self._listener.close()

    @asynccontextmanager
    async def connection(self):
        with trio.fail_after(30):
            peer = await self._listener.accept()
        with peer:
            data, _ = await peer.recv()
            assert decode_hello(data) == Hello(1)
            yield Link(peer)


class Link:
    """One tunnel that is connected."""

    def __init__(self, peer):
        self.peer = peer

    async def ask(self, request, fd=None):
        """Send a request; its answer's error text, empty for done."""
        await self.peer.send(encode(request), fd)
        with trio.fail_after(30):
            data, _ = await self.peer.recv()
        assert data, "the tunnel has hung up"
        return decode_ack(data).error

    async def add(self, netns, uid, name="pod", namespace="shop", account="web"):
        return await self.ask(Add(uid, name, namespace, account), netns.fd)

    async def snapshot(self):
        assert await self.ask(SnapshotSent()) == ""

    async def gone(self):
        """The tunnel has closed its end."""
        with trio.fail_after(30):
            return await self.peer.recv() == (b"", None)
