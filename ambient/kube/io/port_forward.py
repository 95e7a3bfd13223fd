"""A TCP connection to a port inside a pod's network namespace, through the API server.

Kubernetes' ``pods/portforward`` over a WebSocket with the subprotocol ``v4.channel.k8s.io``
(kubernetes pkg/kubelet/server/portforward/websocket.go): the first byte of a message is the
channel, 0 for data and 1 for errors, and each channel begins with the port as two bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpcore
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Message, Ping
from wsproto.utilities import RemoteProtocolError, generate_accept_token, generate_nonce

from ambient.api.errors import MeshError, UnavailableError
from ambient.kube.core.errors import error_from
from ambient.kube.core.resources import PODS
from ambient.kube.io.client import ANSWER_S, HTTP_ERRORS, KubeClient

SUBPROTOCOL: Final = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
PORT_BYTES: Final = 2
READ_BYTES: Final = 64 * 1024
MAX_ERROR_BYTES: Final = 4096


class ForwardError(MeshError):
    """The pod's port could not be reached."""


class PodStream(trio.abc.Stream):
    """The connection; made by ``forwarded``."""

    def __init__(self, network: httpcore.AsyncNetworkStream, what: str) -> None:
        self._network = network
        self._what = what
        self._ws = Connection(ConnectionType.CLIENT)
        self._data = bytearray()
        self._error = bytearray()
        self._partial = bytearray()
        self._begun = {DATA: 0, ERROR: 0}
        self._ended = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes for the pod."""
        await self._write(self._ws.send(BytesMessage(data=bytes([DATA]) + bytes(data))))

    async def wait_send_all_might_not_block(self) -> None:
        """Nothing is known of the connection to the API server."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the pod, empty at their end. Raises ForwardError where nobody listens there."""
        while not self._data and not self._ended:
            try:
                received = await self._network.read(READ_BYTES)
                self._ws.receive_data(received or None)
                await self._take()
            except (RemoteProtocolError, httpcore.ReadError) as error:
                raise ForwardError(f"{self._what}: {error}") from error
            self._ended = self._ended or not received
        if not self._data and self._error:
            text = self._error.decode(errors="replace").strip()
            raise ForwardError(f"{self._what}: {text}", hint="does the program listen there?")
        size = len(self._data) if max_bytes is None else max_bytes
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    async def aclose(self) -> None:
        """Close the connection."""
        await self._network.aclose()

    async def _write(self, data: bytes) -> None:
        try:
            await self._network.write(data)
        except httpcore.WriteError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def _take(self) -> None:
        for event in self._ws.events():
            match event:
                case Message(data=data, message_finished=finished):
                    self._partial += data.encode() if isinstance(data, str) else data
                    if finished:
                        message, self._partial = self._partial, bytearray()
                        self._channel(message)
                case Ping():
                    await self._write(self._ws.send(event.response()))
                case CloseConnection():
                    self._ended = True
                case _:
                    pass

    def _channel(self, message: bytearray) -> None:
        if not message or message[0] not in self._begun:
            return
        channel, payload = message[0], message[1:]
        skipped = min(PORT_BYTES - self._begun[channel], len(payload))
        self._begun[channel] += skipped
        payload = payload[skipped:]
        if channel == DATA:
            self._data += payload
        else:
            self._error += payload[: MAX_ERROR_BYTES - len(self._error)]
            self._ended = self._ended or bool(self._error)


@asynccontextmanager
async def forwarded(
    kube: KubeClient, namespace: str, pod: str, port: int
) -> AsyncIterator[PodStream]:
    """A connection to ``localhost:port`` of a pod, for the duration of the block.

    Raises KubeError where the API server refuses, UnavailableError where it is away.
    """
    what = f"port {port} of pod {namespace}/{pod}"
    path, nonce = PODS.path(namespace, pod, "portforward"), generate_nonce()
    asked = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", nonce.decode()),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", SUBPROTOCOL),
    ]
    headers = [*await kube.headers(), *asked]
    try:
        async with kube.stream(path, {"ports": str(port)}, headers, quiet_s=ANSWER_S) as answer:
            if answer.status != 101:
                raise error_from(answer.status, await answer.aread(), what)
            told = {name.lower(): value for name, value in answer.headers}
            if told.get(b"sec-websocket-accept") != generate_accept_token(nonce):
                raise ForwardError(f"{what}: the API server does not speak WebSocket")
            yield PodStream(answer.extensions["network_stream"], what)
    except HTTP_ERRORS as error:
        raise UnavailableError(
            f"the API server {kube.server} does not forward {what}: "
            f"{str(error) or type(error).__name__}",
            hint="may the account create pods/portforward?",
        ) from error
