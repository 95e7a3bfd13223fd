"""A TCP connection as a stream that can also send without waiting."""

from __future__ import annotations

import socket

import trio


class PlainStream(trio.abc.HalfCloseableStream):
    """Like ``trio.SocketStream``, around a non-blocking socket. Raises trio's errors."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ended = False

    def detach(self) -> socket.socket:
        """The socket; the stream is closed from now on."""
        found, self._sock = self._sock, socket.socket(fileno=None)
        self._sock.close()
        return found

    @property
    def quiet(self) -> bool:
        """Is it open, and has the other side said nothing that was not read?"""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the kernel takes; returns how much that was."""
        if self._sock.fileno() < 0 or self._ended:
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
        await trio.lowlevel.wait_writable(self._sock)

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream."""
        await trio.lowlevel.checkpoint()
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError
        self._ended = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(error.strerror) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream."""
        while True:
            try:
                data = self._sock.recv(max_bytes or 65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            except OSError as error:
                if self._sock.fileno() < 0:
                    raise trio.ClosedResourceError from None
                raise trio.BrokenResourceError(error.strerror) from error
            await trio.lowlevel.checkpoint_if_cancelled()
            return data

    def close(self) -> None:
        """Close at once; whoever waits is told."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        """See trio.abc.AsyncResource."""
        self.close()
        await trio.lowlevel.checkpoint()
