"""Connections that leave HTTP: WebSockets with Kubernetes' subprotocols, and bare SPDY."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ambient.kube.io.port_forward import READ_BYTES

MAX_MESSAGE_BYTES: Final = 1 << 20
SPDY: Final = "SPDY/3.1"
PROTOCOL_HEADER: Final = "x-stream-protocol-version"
"""Kubernetes': which of its protocols a SPDY connection carries."""
Headers = list[tuple[bytes, bytes]]


class UpgradeError(Exception):
    """The client broke the protocol, or was refused and told so."""


class Duplex(Protocol):
    """Bytes both ways."""

    async def receive(self) -> bytes:
        """Empty at the end. Raises UpgradeError."""

    async def send(self, data: bytes) -> None:
        """One piece."""


def texts(headers: Headers) -> dict[str, str]:
    """Names in lower case; several of one name with commas between them."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


class WebSocket:
    """A WebSocket of which one of our subprotocols was chosen."""

    def __init__(self, client: trio.abc.Stream) -> None:
        self._client = client
        self._ws = WSConnection(ConnectionType.SERVER)
        self._partial = bytearray()
        self._sending = trio.Lock()

    async def accept(self, headers: Headers, target: str, supported: Sequence[str]) -> str:
        """Shake hands; the first of ``supported`` that the client offers. Raises UpgradeError."""
        try:
            self._ws.initiate_upgrade_connection(headers, target)
            (request,) = self._ws.events()
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise UpgradeError(str(error)) from error
        offered = getattr(request, "subprotocols", [])
        chosen = next((one for one in supported if one in offered), None)
        if chosen is None:
            await self._write(RejectConnection(status_code=400, has_body=True))
            text = f"offer one of the subprotocols {', '.join(supported)}".encode()
            await self._write(RejectData(data=text, body_finished=True))
            raise UpgradeError("no common subprotocol")
        await self._write(AcceptConnection(subprotocol=chosen))
        return chosen

    async def messages(self) -> AsyncIterator[bytes]:
        """Whole messages until the client closes. Raises UpgradeError."""
        while data := await self._client.receive_some(READ_BYTES):
            try:
                self._ws.receive_data(bytes(data))
                for event in self._ws.events():
                    match event:
                        case Message(data=part, message_finished=finished):
                            self._partial += part.encode() if isinstance(part, str) else part
                            if len(self._partial) > MAX_MESSAGE_BYTES:
                                raise UpgradeError("a message that is too long")
                            if finished:
                                whole = bytes(self._partial)
                                self._partial.clear()
                                yield whole
                        case Ping():
                            await self._write(event.response())
                        case CloseConnection():
                            return
                        case _:
                            pass
            except (RemoteProtocolError, LocalProtocolError) as error:
                raise UpgradeError(str(error)) from error

    async def send(self, data: bytes) -> None:
        """One message."""
        await self._write(BytesMessage(data=data))

    async def close(self) -> None:
        """An orderly end."""
        await self._write(CloseConnection(code=1000))

    async def _write(self, event: Event) -> None:
        async with self._sending:
            try:
                await self._client.send_all(self._ws.send(event))
            except LocalProtocolError as error:
                raise UpgradeError(str(error)) from error


class Tunnelled:
    """SPDY's bytes as the messages of a WebSocket (kubectl 1.31 and later)."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._messages = socket.messages()

    async def receive(self) -> bytes:
        """Empty at the end."""
        async for message in self._messages:
            if message:
                return message
        return b""

    async def send(self, data: bytes) -> None:
        """One message."""
        await self._socket.send(data)


class Bare:
    """SPDY on the connection itself."""

    def __init__(self, client: trio.abc.Stream) -> None:
        self._client = client
        self._sending = trio.Lock()

    async def accept(self, headers: Mapping[str, str], supported: Sequence[str]) -> str:
        """Switch over. Raises UpgradeError where nothing is common."""
        offered = [one.strip() for one in headers.get(PROTOCOL_HEADER, "").split(",")]
        chosen = next((one for one in supported if one in offered), None)
        if chosen is None:
            text = f"offer one of the protocols {', '.join(supported)}\n".encode()
            head = (
                "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(text)}\r\n\r\n"
            )
            await self._client.send_all(head.encode() + text)
            raise UpgradeError("no common protocol")
        head = (
            f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {SPDY}\r\n"
            f"X-Stream-Protocol-Version: {chosen}\r\n\r\n"
        )
        await self._client.send_all(head.encode())
        return chosen

    async def receive(self) -> bytes:
        """Empty at the end."""
        return bytes(await self._client.receive_some(READ_BYTES))

    async def send(self, data: bytes) -> None:
        """One piece at a time."""
        async with self._sending:
            await self._client.send_all(data)
