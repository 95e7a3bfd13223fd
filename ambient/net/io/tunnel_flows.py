"""How many connections the tunnel still carries inside a network namespace.

Every socket that ztunnel (ours or Istio's) opens there has ``PROXY_MARK``, or ``REPLY_MARK`` where
the eBPF redirection knows it for a connection to the application; so the kernel's socket list
answers the question, whatever program made the sockets. HBONE connections do not count: they are
kept open for later use, and each connection inside them has a socket of its own here.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from ambient.api.address import HostPort, canonical
from ambient.api.errors import MeshError
from ambient.api.ports import (
    DNS_PORT,
    HBONE_PORT,
    MARK_MASK,
    OUTBOUND_PORT,
    PLAINTEXT_PORT,
    PROXY_MARK,
    REPLY_MARK,
)
from ambient.net.io import sock_diag
from ambient.net.io.netns import Netns
from ambient.net.io.sock_diag import FoundSocket

_OPEN: Final = sock_diag.ALL & ~(sock_diag.TIME_WAIT | sock_diag.CLOSED | sock_diag.LISTENING)
"""The others have nothing to lose any more."""


def count(netns: Netns) -> int:
    """Application connections of the tunnel, not closed yet. Raises MeshError."""
    return netns.run(_count_here)


def translated(netns: Netns) -> int:
    """Those of them that netfilter redirected, and that need its rules. Raises MeshError."""
    return netns.run(_translated_here)


def outside(netns: Netns) -> int:
    """Established connections with other hosts that the tunnel does not carry. Raises MeshError."""
    return netns.run(_outside_here)


def _outside_here() -> int:
    return sum(
        _mark(connection) not in (PROXY_MARK, REPLY_MARK)
        and not ip_address(connection.source).is_loopback
        and not ip_address(connection.destination).is_loopback
        for connection in _found(sock_diag.ESTABLISHED)
    )


def _count_here() -> int:
    # The application's end of a connection inherits the mark for replies; the tunnel's end counts.
    listening = {one.source_port for one in _found(sock_diag.LISTENING)}
    return sum(
        mark == PROXY_MARK or (mark == REPLY_MARK and one.source_port not in listening)
        for one in _found(_OPEN)
        if HBONE_PORT not in (one.source_port, one.destination_port)
        for mark in (_mark(one),)
    )


def _translated_here() -> int:
    found = _found(_OPEN)
    ends = {_ends(one) for one in found}
    return sum(_is_translated(one, ends) for one in found if _mark(one) == PROXY_MARK)


def _is_translated(one: FoundSocket, ends: set[tuple[HostPort, HostPort]]) -> bool:
    """Whether netfilter stands between the tunnel's socket and the application's.

    Without it both see the same addresses, and connections to the application have another mark.
    """
    near, far = _ends(one)
    if one.source_port in (OUTBOUND_PORT, DNS_PORT):
        return (far, near) not in ends
    return one.source_port == PLAINTEXT_PORT or (far, near) in ends


def _ends(one: FoundSocket) -> tuple[HostPort, HostPort]:
    return (
        HostPort(str(canonical(ip_address(one.source))), one.source_port),
        HostPort(str(canonical(ip_address(one.destination))), one.destination_port),
    )


def _found(states: int) -> list[FoundSocket]:
    try:
        return sock_diag.sockets(states)
    except OSError as error:
        raise MeshError(
            f"cannot list the sockets of a pod: {error.strerror or error}",
            hint="the kernel needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (module tcp_diag)",
        ) from None


def _mark(one: FoundSocket) -> int:
    return one.mark & MARK_MASK
