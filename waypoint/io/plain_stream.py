"""A TCP connection as a stream that the relay reads and that can send without waiting.

The socket is registered once, when it is first read from, and not for every wait: what arrives is
read in the relay's turn and wakes the task that waits for it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from ambient.hbone.io.relay import Relay
from ambient.hbone.io.socket_end import ERR, HUP, IN, OUT

READ_BYTES: Final = 64 * 1024
"""Most that one turn of the relay reads."""
INBOX_BYTES: Final = 256 * 1024
"""Bytes that wait for a task; from there on the socket is not read."""


class PlainStream(trio.abc.HalfCloseableStream):
    """Like ``trio.SocketStream``, around a non-blocking socket. Raises trio's errors."""

    def __init__(self, sock: socket.socket, relay: Relay) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.relay = relay
        self._mask = 0
        self._inbox: deque[bytes] = deque()
        self._size = 0
        self._reading = False
        self._writing = False
        self._ended = False
        self._sent_eof = False
        self._closed = False
        self._error = ""
        self.on_arrival: Callable[[], None] | None = None
        """Called when ``take_now`` may have another answer."""
        self._arrivals = trio.lowlevel.ParkingLot()
        self._departures = trio.lowlevel.ParkingLot()

    def detach(self) -> socket.socket:
        """The socket, if nothing was received yet; the stream is closed from now on."""
        assert not self._reading, "it is being read from"
        self._forget()
        return self._sock

    @property
    def unread(self) -> bool:
        """Was nothing received yet, so that the socket may be detached?"""
        return not self._reading

    @property
    def quiet(self) -> bool:
        """Is it open, and has the other side said nothing that was not received?"""
        return not (self._inbox or self._ended or self._closed or self._error)

    # The relay's turns

    def _watch(self) -> None:
        """Registered for what is waited for, and not at all for nothing (see ``Relay``)."""
        reads = self._reading and not self._ended and self._size < INBOX_BYTES
        mask = (IN if reads else 0) | (OUT if self._writing else 0)
        if mask == self._mask:
            return
        if not mask:
            self.relay.unwatch(self._fd)
        elif self._mask:
            self.relay.rewatch(self._fd, mask)
        else:
            self.relay.watch(self._fd, mask, self._on_event)
        self._mask = mask

    def _on_event(self, mask: int) -> None:
        if self._writing and mask & (OUT | ERR | HUP):
            self._writing = False
            self._departures.unpark_all()
        if mask & (IN | ERR | HUP) and self._reading and not self._ended:
            self._read()
        if mask != IN or self._ended or self._size >= INBOX_BYTES:
            self._watch()  # for something else than before

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._error = error.strerror or str(error)
            self._ended = True
        else:
            if data:
                self._inbox.append(data)
                self._size += len(data)
            else:
                self._ended = True
        self._arrived()

    def _arrived(self) -> None:
        if self.on_arrival is not None:
            self.on_arrival()
        if self._arrivals:
            self._arrivals.unpark_all()

    # As a trio stream

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the kernel takes; returns how much that was."""
        if self._closed or self._sent_eof:
            raise trio.ClosedResourceError
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(error.strerror) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            sent = self.send_now(rest)
            rest = rest[sent:]
            if not sent:
                await self.wait_send_all_might_not_block()

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        self._writing = True
        self._watch()
        await self._departures.park()

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        self._sent_eof = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(error.strerror) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream."""
        while (data := self.take_now(max_bytes)) is None:
            await self._arrivals.park()
        if data:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        return data

    def take_now(self, max_bytes: int | None = None) -> bytes | None:
        """As ``receive_some``, but None where that would wait."""
        if not self._reading:
            self._reading = True
            self._watch()
        if not self._inbox:
            if self._closed:
                raise trio.ClosedResourceError
            if self._error:
                raise trio.BrokenResourceError(self._error)
            return b"" if self._ended else None
        data = self._inbox.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._inbox.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        full = self._size >= INBOX_BYTES
        self._size -= len(data)
        if full:
            self._watch()
        return data

    def close(self) -> None:
        """Close at once; whoever waits is told."""
        if not self._closed:
            self._forget()
            self.relay.close_later(self._sock)

    def _forget(self) -> None:
        if self._mask:
            self.relay.unwatch(self._fd)
        self._mask = 0
        self._closed = True
        self._inbox.clear()
        self._arrived()
        self._departures.unpark_all()

    async def aclose(self) -> None:
        """See trio.abc.AsyncResource."""
        self.close()
        await trio.lowlevel.checkpoint()
