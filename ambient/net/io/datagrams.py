"""UDP sockets of the tunnel: made inside a pod's namespace, marked, never redirected again."""

from __future__ import annotations

import errno
import socket
from typing import Final

from ambient.api.address import HostPort
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import ListenOptions, set_mark

LOOPBACKS: Final = ("127.0.0.1", "::1")
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def loopbacks_in(netns: Netns, *, ipv6: bool = True) -> tuple[str, ...]:
    """The loopback addresses that can be bound there; a namespace may be without IPv6."""
    wanted = LOOPBACKS if ipv6 else LOOPBACKS[:1]
    return tuple(host for host in wanted if netns.run(_can_bind, host))


def bind_in(netns: Netns, host: str, port: int, options: ListenOptions) -> socket.socket:
    """A non-blocking socket that receives on ``host:port``. Raises OSError."""
    return netns.run(_bound, host, port, options)


def is_free_in(netns: Netns, host: str, port: int) -> bool:
    """Nobody receives on ``host:port``, not even somebody who would share it."""
    try:
        bind_in(netns, host, port, ListenOptions(reuse_port=False)).close()
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def connect_datagrams_in(netns: Netns, target: HostPort, mark: int | None) -> socket.socket:
    """A non-blocking socket that speaks only with ``target``, from a random port. Raises OSError.

    Being connected, it hears nobody else, and it learns when nobody listens there.
    """
    sock = netns.run(socket.socket, _family(target.host), socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        set_mark(sock, mark)
        sock.connect((target.host, target.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _bound(host: str, port: int, options: ListenOptions) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        set_mark(sock, options.mark)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _can_bind(host: str) -> bool:
    try:
        with socket.socket(_family(host), socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        if error.errno not in _NO_SUCH_FAMILY:
            raise
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
