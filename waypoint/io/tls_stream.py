"""A TLS client's stream on top of a stream to an endpoint."""

from __future__ import annotations

import trio

from ambient.hbone.io.stream import HboneStream
from waypoint.io.plain_stream import PlainStream


class TlsStream:
    """A ``Duplex``. TLS knows no half-closed connections: our end is told with the whole."""

    def __init__(
        self, tls: trio.SSLStream[trio.abc.Stream], below: HboneStream | PlainStream
    ) -> None:
        self._tls = tls
        self.below = below

    async def send_all(self, data: bytes) -> None:
        """See ``Duplex``."""
        await self._tls.send_all(data)

    async def send_eof(self) -> None:
        """Nothing: the other direction goes on."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See ``Duplex``."""
        return await self._tls.receive_some(max_bytes)

    async def aclose(self) -> None:
        """See ``Duplex``."""
        await self._tls.aclose()
