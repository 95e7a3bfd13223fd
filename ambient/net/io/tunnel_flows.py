"""How many connections the tunnel still carries inside a network namespace.

Every socket that ztunnel (ours or Istio's) opens there has ``PROXY_MARK``, so the kernel's socket
list answers the question, whatever program made the sockets. HBONE connections do not count: they
are kept open for later use, and each connection inside them has a socket of its own here.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT, MARK_MASK, PROXY_MARK
from ambient.net.io import sock_diag
from ambient.net.io.netns import Netns

_OPEN: Final = sock_diag.ALL & ~(sock_diag.TIME_WAIT | sock_diag.CLOSED | sock_diag.LISTENING)
"""The others have nothing to lose any more."""


def count(netns: Netns) -> int:
    """Application connections with the tunnel's mark, not closed yet. Raises MeshError."""
    return netns.run(_count_here)


def outside(netns: Netns) -> int:
    """Established connections with other hosts that the tunnel does not carry. Raises MeshError."""
    return netns.run(_outside_here)


def _outside_here() -> int:
    return sum(
        connection.mark & MARK_MASK != PROXY_MARK and not _is_local(connection.source)
        for connection in _found(sock_diag.ESTABLISHED)
    )


def _is_local(address: str) -> bool:
    return ip_address(address).is_loopback


def _count_here() -> int:
    return sum(_is_tunnelled(connection) for connection in _found(_OPEN))


def _found(states: int) -> list[sock_diag.FoundSocket]:
    try:
        return sock_diag.sockets(states)
    except OSError as error:
        raise MeshError(
            f"cannot list the sockets of a pod: {error.strerror or error}",
            hint="the kernel needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (module tcp_diag)",
        ) from None


def _is_tunnelled(connection: sock_diag.FoundSocket) -> bool:
    if HBONE_PORT in (connection.source_port, connection.destination_port):
        return False
    return connection.mark & MARK_MASK == PROXY_MARK
