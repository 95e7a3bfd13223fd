"""The unix socket between node agent and ztunnel: packets, each with at most one descriptor.

SOCK_SEQPACKET keeps message borders and tells the end of the peer as an empty packet.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError, UnavailableError

MAX_PACKET_BYTES: Final = 1024
_INT_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(2 * _INT_BYTES)
"""Room for one descriptor more than is allowed, so that an excess is seen and closed."""
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SOCKET_MODE: Final = 0o600
_BACKLOG: Final = 16


class PacketError(ValueError):
    """The peer sent a packet that is too long, or carries more than one descriptor."""


class Peer(NamedTuple):
    """Who is on the other end, as the kernel vouches (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class AgentSocket:
    """One connected socket; either end."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock

    @classmethod
    async def connect(cls, path: str | Path) -> AgentSocket:
        """Connect to an agent. Raises UnavailableError that names the path and the remedy."""
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise UnavailableError(
                f"no node agent at {path}: {os.strerror(error.errno or 0)}",
                hint="is ambient-cni-agent running on this node, with the same socket path?",
            ) from None
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @classmethod
    def from_fd(cls, fd: int) -> AgentSocket:
        """Take over a descriptor that this process was started with. Raises OSError."""
        return cls(trio.socket.from_stdlib_socket(_adopt(fd)))

    @classmethod
    def pair(cls) -> tuple[AgentSocket, int]:
        """A connection with a process to be started: our end, and the descriptor of the other.

        The descriptor is the caller's to pass on and to close.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(trio.socket.from_stdlib_socket(ours)), theirs.detach()

    def peer(self) -> Peer:
        """The process that made the other end."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return Peer(*_UCRED.unpack(raw))

    async def recv(self) -> tuple[bytes, int | None]:
        """The next packet and its descriptor, which becomes the caller's to close.

        Empty bytes mean that the peer is gone. Raises PacketError (descriptors closed) for a
        packet that breaks the limits, OSError for a broken socket.
        """
        data, ancillary, flags, _ = await self._socket.recvmsg(
            MAX_PACKET_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        fds = _descriptors(ancillary)
        cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if cut or len(fds) > 1:
            for fd in fds:
                os.close(fd)
            if cut:
                raise PacketError(f"packet is longer than {MAX_PACKET_BYTES} bytes")
            raise PacketError(f"packet carries {len(fds)} descriptors")
        return data, fds[0] if fds else None

    async def send(self, data: bytes, fd: int | None = None) -> None:
        """Send one packet; the descriptor stays the caller's. Raises OSError, PacketError."""
        if not 0 < len(data) <= MAX_PACKET_BYTES:
            raise PacketError(f"packet of {len(data)} bytes, not 1 to {MAX_PACKET_BYTES}")
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _ints(fd))]
        await self._socket.sendmsg([data], rights)

    def close(self) -> None:
        """End the connection; harmless when repeated."""
        self._socket.close()

    def __enter__(self) -> AgentSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AgentListener:
    """The agent's end: accepts one socket per ztunnel."""

    def __init__(self, sock: trio.socket.SocketType, path: Path) -> None:
        self._socket = sock
        self._path = path
        self._inode = path.stat().st_ino

    @classmethod
    def bind(cls, path: str | Path) -> AgentListener:
        """Listen on ``path``, mode 0600, and take the place of a socket that nobody serves.

        Raises MeshError where another process serves it or the folder cannot be written.
        """
        target = Path(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        old_mask = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            _remove_stale(target)
            sock.bind(str(target))
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            return cls(trio.socket.from_stdlib_socket(sock), target)
        except OSError as error:
            sock.close()
            raise MeshError(
                f"cannot listen on {target}: {error.strerror or error}",
                hint="does its folder exist and may this user write there?",
            ) from None
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(old_mask)

    async def accept(self) -> AgentSocket:
        """The next peer. Raises OSError."""
        sock, _ = await self._socket.accept()
        return AgentSocket(sock)

    async def serve(
        self, handler: Callable[[AgentSocket], Awaitable[None]], nursery: trio.Nursery
    ) -> None:
        """Accept for ever; ``handler`` runs in ``nursery`` and its socket is closed after it."""

        async def one(peer: AgentSocket) -> None:
            with peer:
                await handler(peer)

        while True:
            nursery.start_soon(one, await self.accept())

    def close(self) -> None:
        """Stop listening and remove the path, unless a successor has already replaced it."""
        self._socket.close()
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass

    def __enter__(self) -> AgentListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _adopt(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)
                return
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
                raise
    raise MeshError(
        f"another node agent serves {path}",
        hint="stop it first, or choose another socket path",
    )


def _ints(fd: int) -> bytes:
    return array.array("i", [fd]).tobytes()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % _INT_BYTES])
    return list(fds)
