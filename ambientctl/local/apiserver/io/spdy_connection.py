"""Streams of one SPDY connection, as trio sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ambientctl.local.apiserver.core.spdy import Data, Opened, Reset, Spdy, SpdyError
from ambientctl.local.apiserver.io.upgrade import Duplex, UpgradeError

PIECES: Final = 16
"""Of one stream that wait to be read; the whole connection then waits, as with kubelets."""


class SpdyStream:
    """One stream, opened by the client."""

    def __init__(self, connection: SpdyConnection, opened: Opened) -> None:
        self.number = opened.stream
        self.headers = opened.headers
        self._connection = connection
        self._pieces, self._taken = trio.open_memory_channel[bytes](PIECES)
        if opened.fin:
            self._pieces.close()

    async def receive(self) -> bytes:
        """Empty at the end."""
        try:
            return await self._taken.receive()
        except trio.EndOfChannel:
            return b""

    async def send(self, data: bytes) -> None:
        """Bytes for the client."""
        await self._connection.send(self.number, data)

    async def finish(self) -> None:
        """Nothing more from here."""
        await self._connection.send(self.number, b"", fin=True)

    async def take(self, data: bytes, *, fin: bool) -> None:
        """From the connection."""
        if data:
            try:
                await self._pieces.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # nobody reads it any more
        if fin:
            self.end()

    def end(self) -> None:
        """The client sends nothing more on it."""
        self._pieces.close()

    def leave(self) -> None:
        """Nobody here reads it any more."""
        self._taken.close()


class SpdyConnection:
    """Reads the connection; ``opened`` is told of each new stream."""

    def __init__(self, duplex: Duplex, opened: Callable[[SpdyStream], None]) -> None:
        self._duplex = duplex
        self._opened = opened
        self._spdy = Spdy()
        self._streams: dict[int, SpdyStream] = {}

    async def run(self) -> None:
        """Until the client leaves. Raises UpgradeError where it breaks the protocol."""
        try:
            while data := await self._duplex.receive():
                try:
                    events = self._spdy.receive(data)
                except SpdyError as error:
                    raise UpgradeError(str(error)) from error
                for event in events:
                    await self._handle(event)
                await self._flush()
        finally:
            for stream in self._streams.values():
                stream.end()

    async def send(self, number: int, data: bytes, *, fin: bool = False) -> None:
        """Of a stream."""
        self._spdy.send(number, data, fin=fin)
        await self._flush()

    def forget(self, *streams: SpdyStream) -> None:
        """Both sides have said everything on them."""
        for stream in streams:
            stream.leave()
            self._streams.pop(stream.number, None)
            self._spdy.forget(stream.number)

    async def _handle(self, event: Opened | Data | Reset) -> None:
        match event:
            case Opened():
                stream = self._streams[event.stream] = SpdyStream(self, event)
                self._spdy.accept(event.stream)
                self._opened(stream)
            case Data(stream=number, data=data, fin=fin):
                if number in self._streams:
                    await self._flush()
                    await self._streams[number].take(data, fin=fin)
            case Reset(stream=number):
                gone = self._streams.pop(number, None)
                if gone is not None:
                    gone.end()

    async def _flush(self) -> None:
        if self._spdy.outgoing:
            data = bytes(self._spdy.outgoing)
            self._spdy.outgoing.clear()
            await self._duplex.send(data)
