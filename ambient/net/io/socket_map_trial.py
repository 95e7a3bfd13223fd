"""Whether this kernel's socket maps behave as the mesh needs it, found out by trying.

Versions do not tell: distributions carry fixes back. The trial is a connection between a client
and a stand-in for the tunnel, in a network namespace that ends with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Final

from ambient.api.ports import OUTBOUND_PORT, PROXY_MARK
from ambient.net.io.bpf import BpfError
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.netns import CLONE_NEWNET, Netns
from ambient.net.io.socket_map import Directions, SocketMap
from ambient.net.io.sockets import set_mark

_SIOCSIFFLAGS: Final = 0x8914  # linux/sockios.h
_IFF_UP: Final = 1
_PATIENCE_S: Final = 5.0
_PIECE: Final = bytes(range(256)) * 16
_TOO_MUCH: Final = 64 << 20
"""Bytes for a reader that does not read, where nothing stops the writer."""


def prove(socket_map: SocketMap) -> None:
    """Blocks for some milliseconds. Raises BpfError that says what this kernel gets wrong."""
    failures: list[BpfError | OSError] = []

    def inside() -> None:
        try:
            _new_namespace()
            with Netns.current() as here:
                cookie = netns_cookie(here)
                socket_map.admit(cookie, Directions.BOTH)
                try:
                    _talk(socket_map)
                finally:
                    socket_map.dismiss(cookie)
        except (BpfError, OSError) as error:
            failures.append(error)

    # A thread of its own, since it never comes back from the namespace.
    trial = threading.Thread(target=inside, name="socket map trial")
    trial.start()
    trial.join()
    for error in failures:
        if isinstance(error, BpfError):
            raise error
        raise BpfError(f"the socket map does not work here: {error.strerror or error}")


def _new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _talk(socket_map: SocketMap) -> None:
    with socket.socket() as listener, socket.socket() as client:
        set_mark(listener, PROXY_MARK)
        listener.bind(("127.0.0.1", OUTBOUND_PORT))
        listener.listen()
        client.settimeout(_PATIENCE_S)
        client.connect(("127.0.0.1", OUTBOUND_PORT))
        server, _ = listener.accept()
        with server:
            server.settimeout(_PATIENCE_S)
            if socket_map.sockets() == 0:
                raise BpfError("this kernel does not join sockets")
            _order(client, server)
            _bound(client, server)


def _order(client: socket.socket, server: socket.socket) -> None:
    """What is on its way when the sender ends, and when the receiver has ended, arrives."""
    server.sendall(b"first ")
    server.sendall(b"second")
    if client.recv(6, socket.MSG_PEEK) != b"first " or client.recv(100) != b"first second":
        raise BpfError("this kernel's socket maps lose the order of bytes")


def _bound(client: socket.socket, server: socket.socket) -> None:
    """A reader that is slow stops the writer, and then gets everything."""
    client.setblocking(False)
    written = 0
    with suppress(BlockingIOError):
        while written < _TOO_MUCH:
            written += client.send(_PIECE)
    if written >= _TOO_MUCH:
        raise BpfError(
            "this kernel does not count what waits in a socket map",
            hint="Linux 6.13 and later do",
        )
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    server.shutdown(socket.SHUT_WR)
    got = 0
    while data := server.recv(1 << 20):
        got += len(data)
    if got != written:
        raise BpfError("this kernel's socket maps lose what waits when a connection ends")
