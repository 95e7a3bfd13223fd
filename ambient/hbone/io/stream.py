"""One CONNECT stream as trio tasks see it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.hbone.core.connect import ConnectResponse, Headers
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.stream import Stream
from ambient.hbone.io.connection import Connection
from ambient.hbone.io.coupling import Coupling
from ambient.hbone.io.relay import Relay

RECEIVE_BYTES: Final = 64 * 1024
"""What ``receive_some`` answers at most when it is not told otherwise."""


class HboneStream(trio.abc.HalfCloseableStream):
    """A tunnelled connection.

    Client: ``await response()``, then couple it or use it as a trio stream. Server: ``accept()`` or
    ``refuse()`` first. Whoever got it must ``couple`` or ``aclose`` it. At most one task may send
    and one may receive at a time.

    As a trio stream it raises trio.BrokenResourceError (with the HboneStreamError as cause) and
    trio.ClosedResourceError; received bytes are credited to the peer only as they are taken.
    """

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self.request: Final = stream.request
        self._connection = connection
        self._stream = stream
        self._inbox = bytearray()
        self._ended = False
        self._closed = False
        self._error: HboneStreamError | None = None
        self._response: ConnectResponse | None = None
        self._arrivals = trio.lowlevel.ParkingLot()
        self._departures = trio.lowlevel.ParkingLot()
        self._sending = False
        self._interrupted = False
        self.handler_scope: trio.CancelScope | None = None
        """The server's handler; cancelled when the peer gives up before it answered."""
        self.on_failure: Callable[[], None] | None = None
        """Called when the peer resets the stream or the connection is lost."""
        self.on_arrival: Callable[[], None] | None = None
        """Called when ``take_now`` may have another answer."""
        stream.sink = self

    @property
    def relay(self) -> Relay:
        """Who moves its bytes."""
        return self._connection.relay

    @property
    def peer(self) -> Identity | None:
        return self._connection.peer

    @property
    def peer_address(self) -> HostPort:
        """The TCP peer of the tunnel's connection."""
        return self._connection.peer_address

    @property
    def local_address(self) -> HostPort:
        return self._connection.local_address

    # Opening

    async def response(self) -> ConnectResponse:
        """Client: the answer, whatever its status. Raises HboneStreamError."""
        await trio.lowlevel.checkpoint()
        while self._response is None:
            if self._error is not None:
                raise self._error
            await self._arrivals.park()
        return self._response

    @property
    def answered(self) -> bool:
        return self._stream.answered

    def accept(self, headers: Headers = ()) -> None:
        """Server: answer 200."""
        self._answer(ConnectResponse(200, tuple(headers)))

    def refuse(self, status: int, headers: Headers = ()) -> None:
        """Server: answer with an error status; the stream ends."""
        self._answer(ConnectResponse(status, tuple(headers)))
        self._closed = True

    def _answer(self, response: ConnectResponse) -> None:
        self._connection.tunnel.respond(self._stream, response)
        self._connection.touch()

    @property
    def quiet(self) -> bool:
        """Has nothing arrived that was not taken, and has nothing ended?"""
        return not (self._inbox or self._ended or self._closed) and self._error is None

    # Relayed

    async def couple(self, sock: socket.socket, counters: Counters) -> None:
        """Let the relay move bytes between the stream and ``sock`` until both directions ended.

        Raises HboneStreamError when the peer resets the stream or the connection is lost (the
        application then sees a reset). On cancellation the stream is reset with CANCEL. ``sock`` is
        closed in every case.
        """
        if self._error is not None and not self._error.orderly:
            sock.close()
            raise self._error
        coupling = Coupling(self._connection, self._stream, sock, counters)
        self._closed = True
        try:
            if self._error is None:
                self._stream.sink = coupling
            coupling.start()
            if self._inbox:
                inbox, self._inbox = self._inbox, bytearray()
                coupling.data(memoryview(inbox))
            if self._error is not None:
                coupling.failed(self._error)
            elif self._ended:
                coupling.ended()
            await coupling.finished.wait()
        finally:
            coupling.abort()
        if coupling.error is not None:
            raise coupling.error

    # As a trio stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes, or b"" at the end. See trio.abc.ReceiveStream."""
        # Only the relay's turn fills the inbox, so that going on without a turn starves nobody.
        await trio.lowlevel.checkpoint_if_cancelled()
        while (data := self.take_now(max_bytes)) is None:
            await self._arrivals.park()
        if not data:
            await trio.lowlevel.checkpoint()
        return data

    def take_now(self, max_bytes: int | None = None) -> bytes | None:
        """As ``receive_some``, but None where that would wait."""
        if self._closed:
            raise trio.ClosedResourceError
        if self._inbox:
            return self._take(RECEIVE_BYTES if max_bytes is None else max_bytes)
        if self._ended or (self._error is not None and self._error.orderly):
            return b""
        if self._interrupted:
            self._interrupted = False
            return b""
        if self._error is not None:
            raise trio.BrokenResourceError(str(self._error)) from self._error
        return None

    def _arrived(self) -> None:
        if self.on_arrival is not None:
            self.on_arrival()
        if self._arrivals:
            self._arrivals.unpark_all()

    def interrupt(self) -> None:
        """Have the task that waits for bytes, or the next one that would, get b"" once, as if at
        the end. A cancel scope for each wait would cost more than the wait."""
        self._interrupted = True
        self._arrived()

    def _take(self, max_bytes: int) -> bytes:
        inbox = self._inbox
        if len(inbox) <= max_bytes:
            chunk = bytes(inbox)
            inbox.clear()
        else:
            chunk = bytes(inbox[:max_bytes])
            del inbox[:max_bytes]
        self._credit(len(chunk))
        return chunk

    def _credit(self, size: int) -> None:
        self._stream.credit(size)
        if self._stream.tunnel.out:
            self._connection.touch()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when the last byte is within the peer's window. See trio.abc.SendStream."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            rest = memoryview(data)
            while True:
                self._check_sendable()
                if not rest:
                    return
                sent = self._stream.send(rest)
                if sent:
                    rest = rest[sent:]
                    self._connection.touch()
                else:
                    await self._wait_for_room()
        finally:
            self._sending = False

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Send what is within the window; returns how much that was. Raises as ``send_all``."""
        if self._sending:
            return 0
        self._check_sendable()
        rest = memoryview(data)
        while rest and (sent := self._stream.send(rest)):
            rest = rest[sent:]
        self._connection.touch()
        return len(data) - len(rest)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._closed and self._error is None and self._stream.budget() <= 0:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        self._stream.tunnel.block(self._stream)
        await self._departures.park()

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._error is not None:
            raise trio.BrokenResourceError(str(self._error)) from self._error
        if self._stream.local_ended:
            raise trio.ClosedResourceError("send_eof was called")

    async def send_eof(self) -> None:
        """END_STREAM; receiving goes on."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        if self._closed:
            raise trio.ClosedResourceError
        self._stream.end()
        self._connection.touch()
        await trio.lowlevel.checkpoint()

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """End both directions at once."""
        self._stream.tunnel.reset(self._stream, code)
        self._connection.touch()
        self._shut()

    async def aclose(self) -> None:
        """End what is still open: END_STREAM, and a reset where the peer still sends."""
        self.release()
        await trio.lowlevel.checkpoint()

    def release(self) -> None:
        """``aclose`` without a checkpoint."""
        stream = self._stream
        if not self._closed:
            if stream.answered:
                stream.end()
            code = ErrorCode.CANCEL if stream.tunnel.client else ErrorCode.NO_ERROR
            self.reset(code if stream.answered else ErrorCode.CANCEL)

    def _shut(self) -> None:
        self._closed = True
        dropped = len(self._inbox)
        self._inbox.clear()
        if dropped:
            self._credit(dropped)
        self._arrived()
        self._departures.unpark_all()

    # The sink of the stream until it is coupled

    def responded(self, response: ConnectResponse) -> None:
        self._response = response
        self._arrivals.unpark_all()

    def data(self, view: memoryview) -> None:
        self._inbox += view  # bounded by the stream's receive window
        self._arrived()

    def ended(self) -> None:
        self._ended = True
        self._arrived()

    def failed(self, error: HboneStreamError) -> None:
        self._error = error
        if self.handler_scope is not None and not self._stream.answered:
            self.handler_scope.cancel()
        if self.on_failure is not None:
            self.on_failure()
        self._arrived()
        self._departures.unpark_all()

    def writable(self) -> None:
        self._departures.unpark_all()
