"""The server's side of ``pods/portforward``: one WebSocket, one TCP connection inside the pod.

The subprotocol is ``v4.channel.k8s.io`` (see ``ambient/kube/io/port_forward.py``); SPDY, which
kubectl speaks, is not understood.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

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
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ambient.kube.io.port_forward import DATA, ERROR, PORT_BYTES, READ_BYTES, SUBPROTOCOL

Dial = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens the connection; raises OSError with the reason."""
MAX_MESSAGE_BYTES: Final = 1 << 20


class PortForward:
    """An upgraded connection; ``dial`` leads to the port."""

    def __init__(self, port: int, dial: Dial) -> None:
        self._port = port
        self._dial = dial
        self._ws = WSConnection(ConnectionType.SERVER)
        self._partial = bytearray()

    async def serve(
        self, client: trio.abc.Stream, headers: list[tuple[bytes, bytes]], target: str
    ) -> None:
        """Until one side ends; what the client breaks ends it, too."""
        try:
            self._ws.initiate_upgrade_connection(headers, target)
            (request,) = self._ws.events()
            offered = getattr(request, "subprotocols", [])
            if SUBPROTOCOL not in offered:
                refusal = RejectConnection(status_code=400, has_body=True)
                text = f"offer the subprotocol {SUBPROTOCOL}".encode()
                await client.send_all(self._ws.send(refusal))
                await client.send_all(self._ws.send(RejectData(data=text, body_finished=True)))
                return
            await client.send_all(self._ws.send(AcceptConnection(subprotocol=SUBPROTOCOL)))
            head = self._port.to_bytes(PORT_BYTES, "little")
            for channel in (DATA, ERROR):
                await self._send(client, channel, head)
            await self._relay(client)
        except (RemoteProtocolError, LocalProtocolError):
            return

    async def _relay(self, client: trio.abc.Stream) -> None:
        try:
            pod = await self._dial()
        except OSError as error:
            text = f"connect to port {self._port}: {error.strerror or error}"
            await self._send(client, ERROR, text.encode())
            await self._close(client)
            return
        async with pod, trio.open_nursery() as nursery:
            nursery.start_soon(self._from_pod, client, pod, nursery.cancel_scope)
            await self._to_pod(client, pod)
            nursery.cancel_scope.cancel()

    async def _from_pod(
        self, client: trio.abc.Stream, pod: trio.abc.Stream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await pod.receive_some(READ_BYTES):
                await self._send(client, DATA, bytes(data))
        except trio.BrokenResourceError:
            await self._send(client, ERROR, b"the connection inside the pod was reset")
        await self._close(client)
        scope.cancel()

    async def _to_pod(self, client: trio.abc.Stream, pod: trio.abc.Stream) -> None:
        while data := await client.receive_some(READ_BYTES):
            self._ws.receive_data(bytes(data))
            for event in self._ws.events():
                match event:
                    case Message(data=part, message_finished=finished):
                        self._partial += part.encode() if isinstance(part, str) else part
                        if len(self._partial) > MAX_MESSAGE_BYTES:
                            return
                        if finished:
                            message, self._partial = self._partial, bytearray()
                            if message[:1] == bytes([DATA]):
                                await pod.send_all(message[1:])
                    case Ping():
                        await client.send_all(self._ws.send(event.response()))
                    case CloseConnection():
                        return
                    case _:
                        pass

    async def _send(self, client: trio.abc.Stream, channel: int, data: bytes) -> None:
        await client.send_all(self._ws.send(BytesMessage(data=bytes([channel]) + data)))

    async def _close(self, client: trio.abc.Stream) -> None:
        await client.send_all(self._ws.send(CloseConnection(code=1000)))
