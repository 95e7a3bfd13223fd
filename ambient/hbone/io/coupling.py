"""An application socket and a tunnel stream joined, bytes moved by the relay."""

from __future__ import annotations

import socket
from typing import Final

import trio

from ambient.hbone.core.connect import ConnectResponse
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.core.frames import HEAD_BYTES, ErrorCode
from ambient.hbone.core.stream import Stream
from ambient.hbone.io.connection import Connection
from ambient.hbone.io.record import RECORD_BYTES
from ambient.hbone.io.relay import READ_BYTES
from ambient.hbone.io.socket_end import SocketEnd

_PAYLOAD_BYTES: Final = READ_BYTES - HEAD_BYTES
"""With its head a full frame fills whole TLS records; a few bytes more would be a record, a turn
and a write to the application of their own at the other end."""
assert READ_BYTES % RECORD_BYTES == 0


class Coupling(SocketEnd):
    """The application's socket, and the ``Sink`` of its stream."""

    __slots__ = ("_connection", "_counters", "_stream", "error", "finished")

    def __init__(
        self, connection: Connection, stream: Stream, sock: socket.socket, counters: Counters
    ) -> None:
        super().__init__(connection.relay, sock)
        self._connection = connection
        self._stream = stream
        self._counters = counters
        self.finished = trio.Event()
        self.error: HboneStreamError | None = None

    # Application to tunnel

    def read_ready(self) -> None:
        stream = self._stream
        budget = stream.budget()
        if budget <= 0:
            stream.tunnel.block(stream)
            self.pause()
            return
        relay = self._connection.relay
        try:
            size = self.sock.recv_into(
                relay.view[HEAD_BYTES:], budget if budget < _PAYLOAD_BYTES else _PAYLOAD_BYTES
            )
        except BlockingIOError:
            return
        except OSError:
            size = 0  # a reset ends this direction like an end of file (ztunnel)
        if not size:
            self.end_reading()
            return
        self._counters.sent += size
        self._connection.send_frame(stream.frame_in_place(relay.buffer, relay.view, size))

    def reading_ended(self) -> None:
        self._stream.end()
        self._connection.touch()

    def writable(self) -> None:
        self.resume()

    # Tunnel to application

    def data(self, view: memoryview) -> None:
        size = len(view)
        self._counters.received += size
        if self._output or self.write_ended:
            self.write(view)
            return
        # as ``write``, without its calls for the case that the socket takes everything
        try:
            sent = self.sock.send(view)
        except OSError:
            sent = 0  # full or broken: ``write`` finds out
        if sent:
            self.bytes_left(sent)
        if sent < size:
            self.write(view[sent:])

    def bytes_left(self, size: int) -> None:
        self._stream.credit(size)
        if self._stream.tunnel.out:
            self._connection.touch()

    def ended(self) -> None:
        self.end_writing()

    def responded(self, response: ConnectResponse) -> None:
        """Never called: the response was waited for before the coupling."""

    # The end

    def failed(self, error: HboneStreamError) -> None:
        if error.orderly:
            # "No longer interested": the application still gets what arrived, then the end.
            self.end_reading()
            self.end_writing()
        else:
            # A truncated transfer must not look complete, so the application sees a reset.
            self.error = error
            self.close(reset=True)
            self.finished.set()

    def done(self) -> None:
        self._release()
        self.finished.set()

    def abort(self) -> None:
        """Stop at once (cancellation); nothing happens when it has finished."""
        if not self.finished.is_set():
            self._release(ErrorCode.CANCEL)
            self.close()
            self.finished.set()

    def _release(self, code: ErrorCode | None = None) -> None:
        """Give up the stream where the peer has not ended it (codes as ztunnel's)."""
        stream = self._stream
        if not stream.closed:
            if code is None:
                code = ErrorCode.CANCEL if stream.tunnel.client else ErrorCode.NO_ERROR
            stream.tunnel.reset(stream, code)
            self._connection.touch()
