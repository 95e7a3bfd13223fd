"""How many connections the tunnel still carries inside a network namespace.

Every socket that ztunnel (ours or Istio's) opens there has ``PROXY_MARK``, so the kernel's socket
list answers the question, whatever program made the sockets. HBONE connections do not count: they
are kept open for later use, and each connection inside them has a socket of its own here.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT, MARK_MASK, PROXY_MARK
from ambient.net.io.netlink import Netlink
from ambient.net.io.netns import Netns

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_CLOSED_STATES: Final = (6, 7, 10)  # TIME_WAIT, CLOSE, LISTEN: nothing to lose any more
_OPEN: Final = 0xFFF & ~sum(1 << state for state in _CLOSED_STATES)


def count(netns: Netns) -> int:
    """Application connections with the tunnel's mark, not closed yet. Raises MeshError."""
    return netns.run(_count_here)


def _count_here() -> int:
    try:
        with Netlink(_NETLINK_SOCK_DIAG) as netlink:
            found = [
                connection
                for family in (socket.AF_INET, socket.AF_INET6)
                for connection in netlink.dump(_query(family), inet_diag_msg)
            ]
    except OSError as error:
        raise MeshError(
            f"cannot list the sockets of a pod: {error.strerror or error}",
            hint="the kernel needs CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (module tcp_diag)",
        ) from None
    return sum(_is_tunnelled(connection) for connection in found)


def _query(family: int) -> Any:
    query = inet_diag_req()
    query["header"]["type"] = _SOCK_DIAG_BY_FAMILY
    query["sdiag_family"] = family
    query["sdiag_protocol"] = socket.IPPROTO_TCP
    query["idiag_states"] = _OPEN
    return query


def _is_tunnelled(connection: Any) -> bool:
    if HBONE_PORT in (connection["idiag_sport"], connection["idiag_dport"]):
        return False
    mark = connection.get_attr("INET_DIAG_MARK")  # pyroute2 leaves it as "xx:xx:xx:xx"
    value = int.from_bytes(bytes.fromhex(mark.replace(":", "")), "little") if mark else 0
    return value & MARK_MASK == PROXY_MARK
