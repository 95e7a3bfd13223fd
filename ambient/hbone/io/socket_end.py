"""One application socket under the relay: bounded output, pause and resume, half-close."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

IN: Final = 0x001
OUT: Final = 0x004
ERR: Final = 0x008
HUP: Final = 0x010
_LINGER_0: Final = struct.pack("ii", 1, 0)


class Loop(Protocol):
    """What an end asks of the ``Relay``; see there."""

    view: memoryview

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None: ...

    def rewatch(self, fd: int, mask: int) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def close_later(self, sock: socket.socket) -> None: ...


class SocketEnd:
    """Base of the two kinds of relayed sockets; subclasses say what is read and where it goes.

    Life: reading and writing end independently (``read_ended``, ``write_ended``); after both
    ``done`` is called once. What the peer of this socket did wrong (reset, broken pipe) only ends
    a direction, it is never an exception (ztunnel.md section 5.4 has the same mapping).
    """

    __slots__ = (
        "_closed",
        "_fd",
        "_mask",
        "_output",
        "_paused",
        "_registered",
        "_shut_pending",
        "read_ended",
        "relay",
        "sock",
        "write_ended",
    )

    def __init__(self, relay: Loop, sock: socket.socket) -> None:
        self.relay = relay
        self.sock = sock
        self._fd = sock.fileno()
        self._output = bytearray()
        """Bytes that the socket did not take yet; bounded by the other side's flow control."""
        self._mask = 0
        self._registered = False
        self._paused = False
        self._shut_pending = False
        self._closed = False
        self.read_ended = False
        self.write_ended = False

    def start(self) -> None:
        """Begin to read."""
        self.sock.setblocking(False)
        self._update()

    # What subclasses provide

    def read_ready(self) -> None:
        """The socket is readable: take what the other side has room for, or ``pause``."""
        raise NotImplementedError

    def bytes_left(self, size: int) -> None:
        """``size`` bytes were written to the socket or dropped with it."""
        raise NotImplementedError

    def reading_ended(self) -> None:
        """The application sent everything (or vanished)."""
        raise NotImplementedError

    def done(self) -> None:
        """Both directions have ended; the socket is closed."""
        raise NotImplementedError

    # Reading

    def pause(self) -> None:
        """The other side is full: stop reading."""
        self._paused = True
        self._update()

    def resume(self) -> None:
        """The other side has room again."""
        if self._paused:
            self._paused = False
            self._update()

    def end_reading(self) -> None:
        """End of file or reset."""
        if not self.read_ended:
            self.read_ended = True
            self._update()
            self.reading_ended()
            self._finish_if_done()

    # Writing

    def write(self, view: memoryview) -> int:
        """Write now what the socket takes and keep the rest; returns how much is kept."""
        if self.write_ended:
            self.bytes_left(len(view))
            return 0
        if self._output:
            self._output += view
            return len(self._output)
        try:
            sent = self.sock.send(view)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._break_writing()
            self.bytes_left(len(view))
            return 0
        if sent < len(view):
            self._output += view[sent:]
            self._update()
        if sent:
            self.bytes_left(sent)
        return len(self._output)

    def end_writing(self) -> None:
        """Half-close once everything kept is written."""
        if self._output:
            self._shut_pending = True
        elif not self.write_ended:
            self.write_ended = True
            with suppress(OSError):  # the application may be gone already
                self.sock.shutdown(socket.SHUT_WR)
            self._finish_if_done()

    @property
    def pending(self) -> int:
        return len(self._output)

    def _drain(self) -> None:
        try:
            sent = self.sock.send(self._output)
        except BlockingIOError:
            return
        except OSError:
            self._break_writing()
            return
        del self._output[:sent]
        if not self._output:
            self._update()
        self.bytes_left(sent)
        if self._shut_pending and not self._output and not self._closed:
            self._shut_pending = False
            self.end_writing()

    def _break_writing(self) -> None:
        """The application takes nothing any more: what is kept is dropped."""
        dropped = len(self._output)
        self._output.clear()
        self._shut_pending = False
        self.write_ended = True
        self._update()
        if dropped:
            self.bytes_left(dropped)
        self._finish_if_done()

    # Events

    def on_event(self, mask: int) -> None:
        if mask & (OUT | ERR | HUP) and self._output:
            self._drain()
        if mask & (IN | ERR | HUP) and not self._closed:
            if self.read_ended:
                if mask & (ERR | HUP):
                    self._vanished()
            elif not self._paused:
                self.read_ready()

    def _vanished(self) -> None:
        """Hung up after its end of file: nobody is there to read what we would write."""
        if not self.write_ended:
            self._break_writing()
        self._update()

    def _update(self) -> None:
        """Make epoll's interest what the state asks for.

        A paused end is not registered at all: a hang-up is always reported, and as it cannot be
        taken note of before the bytes in front of it, it would keep waking us. After the end of
        file a hang-up is news (``_vanished``), so the end stays registered with no interest.
        """
        if self._closed:
            return
        reading = not self.read_ended and not self._paused
        mask = (IN if reading else 0) | (OUT if self._output else 0)
        wanted = bool(mask) or (self.read_ended and not self.write_ended)
        if not wanted:
            if self._registered:
                self._registered = False
                self.relay.unwatch(self._fd)
        elif not self._registered:
            self._registered = True
            self.relay.watch(self._fd, mask, self.on_event)
        elif mask != self._mask:
            self.relay.rewatch(self._fd, mask)
        self._mask = mask

    # The end

    def _finish_if_done(self) -> None:
        if self.read_ended and self.write_ended and not self._closed:
            self.close()
            self.done()

    def close(self, *, reset: bool = False) -> None:
        """Close at once; with ``reset`` the application sees a connection reset, not an end."""
        if self._closed:
            return
        if self._registered:
            self._registered = False
            self.relay.unwatch(self._fd)
        self._closed = True
        self.read_ended = self.write_ended = True
        dropped = len(self._output)
        self._output.clear()
        if reset:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self.relay.close_later(self.sock)
        if dropped:
            self.bytes_left(dropped)
