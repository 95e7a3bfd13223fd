"""DNS messages over TCP, each behind its length (RFC 1035, 4.2.2)."""

from __future__ import annotations

import socket
from typing import Final

import trio

from ztunnel.core.dns_message import frame

_CHUNK_BYTES: Final = 4096


class MessageStream:
    """One connection. Bytes that came too early stay in ``rest``."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sending = trio.Lock()
        self.rest = b""

    async def receive(self) -> bytes | None:
        """The next message; None where the peer has ended. Raises trio.BrokenResourceError."""
        while True:
            size = int.from_bytes(self.rest[:2], "big")
            if len(self.rest) >= 2 + size and len(self.rest) >= 2:
                message, self.rest = self.rest[2 : 2 + size], self.rest[2 + size :]
                return message
            chunk = await self._stream.receive_some(_CHUNK_BYTES)
            if not chunk:
                return None
            self.rest += chunk

    async def send(self, message: bytes) -> None:
        """Whole messages, whoever else is sending. Raises trio.BrokenResourceError."""
        async with self._sending:
            await self._stream.send_all(frame(message))

    async def send_bytes(self, data: bytes) -> None:
        """As they are."""
        async with self._sending:
            await self._stream.send_all(data)
