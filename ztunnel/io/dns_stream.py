"""DNS messages over TCP, each behind its length (RFC 1035, 4.2.2)."""

from __future__ import annotations

import socket
from contextlib import suppress
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
        await self.send_bytes(frame(message))

    def abandon(self) -> None:
        """Whoever reads or sends here sees the end."""
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    async def send_bytes(self, data: bytes) -> None:
        """As they are. Raises trio.BrokenResourceError, also after ``abandon``."""
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except trio.ClosedResourceError as error:
                raise trio.BrokenResourceError("the connection was abandoned") from error
