"""The kernel's list of sockets in the calling thread's network namespace (netlink SOCK_DIAG)."""

from __future__ import annotations

import socket
from typing import Any, Final

from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

from ambient.net.io.netlink import Netlink

# Bits of ``states``: one bit per TCP state of net/tcp_states.h.
SYN_RECEIVED: Final = 1 << 3
TIME_WAIT: Final = 1 << 6
CLOSED: Final = 1 << 7
"""UDP sockets that are not connected have this state too."""
LISTENING: Final = 1 << 10
ALL: Final = 0xFFF

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20


def sockets(states: int, protocol: int = socket.IPPROTO_TCP) -> list[Any]:
    """Sockets of both families in these states, as pyroute2 decodes them.

    Raises OSError; a kernel without CONFIG_INET_DIAG has no answer.
    """
    with Netlink(_NETLINK_SOCK_DIAG) as netlink:
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in netlink.dump(_query(family, states, protocol), inet_diag_msg)
        ]


def _query(family: int, states: int, protocol: int) -> Any:
    query = inet_diag_req()
    query["header"]["type"] = _SOCK_DIAG_BY_FAMILY
    query["sdiag_family"] = family
    query["sdiag_protocol"] = protocol
    query["idiag_states"] = states
    return query
