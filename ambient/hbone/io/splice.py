"""Two plain TCP sockets joined: what one sends, the other gets."""

from __future__ import annotations

import socket

import trio

from ambient.hbone.core.counters import Counters
from ambient.hbone.io.socket_end import Loop, SocketEnd


class _Half(SocketEnd):
    """One of the two sockets; ``other`` is set right after both exist."""

    __slots__ = ("_counters", "_ended", "_first", "other")

    def __init__(
        self,
        relay: Loop,
        sock: socket.socket,
        counters: Counters,
        *,
        first: bool,
        ended: trio.Event,
    ) -> None:
        super().__init__(relay, sock)
        self._counters = counters
        self._first = first
        self._ended = ended
        self.other: _Half = self

    def read_ready(self) -> None:
        view = self.relay.view
        try:
            size = self.sock.recv_into(view)
        except BlockingIOError:
            return
        except OSError:
            size = 0  # a reset ends this direction like an end of file
        if not size:
            self.end_reading()
            return
        if self._first:
            self._counters.sent += size
        else:
            self._counters.received += size
        if self.other.write(view[:size]):
            self.pause()

    def bytes_left(self, size: int) -> None:
        if not self.pending:
            self.other.resume()

    def reading_ended(self) -> None:
        self.other.end_writing()

    def done(self) -> None:
        if self.other.read_ended and self.other.write_ended:
            self._ended.set()


async def splice(relay: Loop, a: socket.socket, b: socket.socket, counters: Counters) -> None:
    """See ``Relay.splice``."""
    ended = trio.Event()
    one = _Half(relay, a, counters, first=True, ended=ended)
    two = _Half(relay, b, counters, first=False, ended=ended)
    one.other, two.other = two, one
    try:
        one.start()
        two.start()
        await ended.wait()
    finally:
        one.close()
        two.close()
