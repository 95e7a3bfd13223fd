"""A stand-in for ztunnel: speaks ZDS, listens in the pods, relays to the original destination.

No mesh: bytes pass as they are. It counts what it was given, so that a test can tell a captured
connection from a direct one, and it can be told to misbehave.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import trio

from ambient.api.errors import UnavailableError
from ambient.api.ports import OUTBOUND_PORT, PLAINTEXT_PORT, PROXY_MARK
from ambient.net.core import wire
from ambient.net.io.agent_socket import AgentSocket
from ambient.net.io.bpf_flows import announce
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import ListenOptions, connect_in, listen_in, original_destination


class FakeTunnel:
    """One ztunnel process."""

    def __init__(self, path: str, *, announces: bool = True) -> None:
        self.path = path
        self.announces = announces
        """As our ztunnel does, and Istio's does not; see ``ambient.net.io.bpf_flows``."""
        self._listeners: dict[str, tuple[Netns, socket.socket]] = {}
        self.sessions: list[list[wire.Request]] = []
        self.captured: list[tuple[int, str]] = []  # listener port, original destination
        self.refuse: str = ""
        self.silent = False
        self.pods: dict[str, trio.CancelScope] = {}
        self._news = trio.Event()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, again and again, and serve; started when the first snapshot is complete."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    agent = await AgentSocket.connect(self.path)
                except UnavailableError:
                    await trio.sleep(0.02)
                    continue
                with agent, contextlib.suppress(ConnectionError):
                    await self._session(agent, nursery, task_status)

    async def _session(self, agent: AgentSocket, nursery: trio.Nursery, task_status: Any) -> None:
        """Pods that were served before go on, unless the snapshot leaves them out."""
        self.sessions.append([])
        await agent.send(wire.encode(wire.Hello()))
        while True:
            data, fd = await agent.recv()
            if not data:
                return
            message = wire.decode_request(data)
            if isinstance(message, wire.Add) and message.uid not in self.pods and not self.refuse:
                assert fd is not None
                await nursery.start(self._serve, message.uid, Netns.from_fd(os.dup(fd)))
            elif isinstance(message, wire.Add) and message.uid in self.pods and self.announces:
                netns, listener = self._listeners[message.uid]
                announce(netns, PLAINTEXT_PORT, listener)
            if fd is not None:
                os.close(fd)
            if isinstance(message, wire.Del) and message.uid in self.pods:
                self.pods.pop(message.uid).cancel()
            refused = self.refuse if isinstance(message, wire.Add) else ""
            if not self.silent:
                await agent.send(wire.encode(wire.Ack(refused)))
            if isinstance(message, wire.SnapshotSent):
                named = {one.uid for one in self.heard if isinstance(one, wire.Add | wire.Keep)}
                for uid in self.pods.keys() - named:
                    self.pods.pop(uid).cancel()
                if len(self.sessions) == 1:
                    task_status.started()
            self._told(message)

    @property
    def heard(self) -> list[wire.Request]:
        """Every message of the present session."""
        return self.sessions[-1]

    async def until(self, *expected: wire.Request) -> None:
        """Wait until each has been heard."""
        while not set(expected) <= set(self.heard):
            await self._news.wait()

    def _told(self, message: wire.Request) -> None:
        self.sessions[-1].append(message)
        self._news.set()
        self._news = trio.Event()

    async def _serve(
        self, uid: str, netns: Netns, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connections end with the pod, as they do in Istio's ztunnel."""
        options = ListenOptions(mark=PROXY_MARK)
        with netns, trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                self.pods[uid] = scope
                for port in (OUTBOUND_PORT, PLAINTEXT_PORT):
                    listener = listen_in(netns, port, options).socket
                    if port == PLAINTEXT_PORT:
                        self._listeners[uid] = (netns, listener)
                    nursery.start_soon(self._accept, netns, port, listener)
                task_status.started()

    async def _accept(self, netns: Netns, port: int, listener: socket.socket) -> None:
        with trio.socket.from_stdlib_socket(listener) as accepting:
            async with trio.open_nursery() as nursery:
                while True:
                    client, _ = await accepting.accept()
                    nursery.start_soon(self._relay, netns, port, client)

    async def _relay(self, netns: Netns, port: int, client: trio.socket.SocketType) -> None:
        target = original_destination(client)  # type: ignore[arg-type]
        self.captured.append((port, str(target)))
        with client:
            upstream = await connect_in(netns, target, mark=PROXY_MARK)
            with trio.socket.from_stdlib_socket(upstream) as server:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_copy, client, server)
                        nursery.start_soon(_copy, server, client)
                except* OSError:
                    pass  # one end was reset, and the other one is closed with it


async def _copy(source: trio.socket.SocketType, sink: trio.socket.SocketType) -> None:
    while data := await source.recv(65536):
        view = memoryview(data)
        while view:
            view = view[await sink.send(view) :]
    sink.shutdown(socket.SHUT_WR)
