"""A TCP connection to a port inside a pod's network namespace, through the API server.

Kubernetes' ``pods/portforward`` over a WebSocket with the subprotocol ``v4.channel.k8s.io``
(kubernetes pkg/kubelet/server/portforward/websocket.go): the first byte of a message is the
channel, 0 for data and 1 for errors, and each channel begins with the port as two bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import RemoteProtocolError

from ambient.api.errors import MeshError, UnavailableError
from ambient.kube.core.errors import error_from
from ambient.kube.core.resources import PODS
from ambient.kube.io.client import KubeClient

SUBPROTOCOL: Final = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
PORT_BYTES: Final = 2
READ_BYTES: Final = 64 * 1024
CONNECT_S: Final = 15.0
MAX_ERROR_BYTES: Final = 4096


class ForwardError(MeshError):
    """The pod's port could not be reached."""


class PodStream(trio.abc.Stream):
    """The connection; made by ``forwarded``."""

    def __init__(self, stream: trio.abc.Stream, what: str) -> None:
        self._stream = stream
        self._what = what
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._data = bytearray()
        self._error = bytearray()
        self._partial = bytearray()
        self._begun = {DATA: 0, ERROR: 0}
        self._ended = False

    async def start(self, host: str, target: str, headers: list[tuple[str, str]]) -> None:
        """Shake hands. Raises KubeError where the API server refuses."""
        extra = [(name.encode(), value.encode()) for name, value in headers]
        request = Request(host=host, target=target, subprotocols=[SUBPROTOCOL], extra_headers=extra)
        await self._stream.send_all(self._ws.send(request))
        refusal, body = 0, b""
        while True:
            received = await self._stream.receive_some(READ_BYTES)
            self._ws.receive_data(bytes(received) or None)
            for event in self._ws.events():
                match event:
                    case AcceptConnection():
                        return
                    case RejectConnection(status_code=code, has_body=more):
                        refusal = code
                        if not more:
                            raise error_from(code, b"", self._what)
                    case RejectData(data=data, body_finished=done):
                        body += data
                        if done:
                            raise error_from(refusal, body, self._what)
                    case _:
                        pass
            if not received:
                raise error_from(refusal or 502, body, self._what)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes for the pod."""
        await self._stream.send_all(self._ws.send(BytesMessage(data=bytes([DATA]) + bytes(data))))

    async def wait_send_all_might_not_block(self) -> None:
        """As of the connection to the API server."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the pod, empty at their end. Raises ForwardError where nobody listens there."""
        while not self._data and not self._ended:
            received = await self._stream.receive_some(READ_BYTES)
            try:
                self._ws.receive_data(bytes(received) or None)
                await self._take()
            except RemoteProtocolError as error:
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
        await trio.aclose_forcefully(self._stream)

    async def _take(self) -> None:
        for event in self._ws.events():
            match event:
                case Message(data=data, message_finished=finished):
                    self._partial += data.encode() if isinstance(data, str) else data
                    if finished:
                        message, self._partial = self._partial, bytearray()
                        self._channel(message)
                case Ping():
                    await self._stream.send_all(self._ws.send(event.response()))
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
    parts = urlsplit(kube.server)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    number = parts.port or (443 if secure else 80)
    what = f"port {port} of pod {namespace}/{pod}"
    path = f"{parts.path}{PODS.path(namespace, pod, 'portforward')}?ports={port}"
    stream: PodStream | None = None
    try:
        try:
            with trio.fail_after(CONNECT_S):
                raw: trio.abc.Stream = await trio.open_tcp_stream(host, number)
                if secure:
                    name = kube.server_name or host
                    raw = trio.SSLStream(
                        raw, kube.tls(), server_hostname=name, https_compatible=True
                    )
                stream = PodStream(raw, what)
                await stream.start(f"{host}:{number}", path, await kube.headers())
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise UnavailableError(
                f"the API server {kube.server} does not forward {what}: "
                f"{str(error) or type(error).__name__}",
                hint="may the account create pods/portforward?",
            ) from error
        yield stream
    finally:
        if stream is not None:
            await stream.aclose()
