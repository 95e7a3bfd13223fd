"""How a connection fails: errors, and the flag that metrics give them."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT
from ambient.hbone.core.errors import HandshakeError
from ambient.identity.core.svid import SvidError
from ambient.identity.core.verify import PeerIdentityError
from ambient.identity.io.ca_client import CaError
from ambient.net.io.sockets import ConnectError
from ambient.telemetry.core.metric_names import ResponseFlag
from ztunnel.core.admit import Denial

_LINGER_NONE = struct.pack("ii", 1, 0)


class ConnectionFailedError(MeshError):
    """A connection that cannot go on, and its ``response_flags``."""

    def __init__(self, message: str, *, hint: str = "", flag: str = ResponseFlag.CONNECT) -> None:
        super().__init__(message, hint=hint)
        self.flag = flag


class DeniedError(ConnectionFailedError):
    """An inbound connection that may not reach its pod."""

    def __init__(self, denial: Denial) -> None:
        if denial.verdict is None:
            super().__init__(denial.reason)
        else:
            super().__init__(
                f"connection closed due to policy rejection: {denial.reason}",
                flag=ResponseFlag.DENY,
            )
        self.denial = denial


def flag_of(error: BaseException) -> str:
    """The ``response_flags`` of a connection that this error ended."""
    if isinstance(error, ConnectionFailedError):
        return error.flag
    if isinstance(error, (CaError, SvidError)):
        return ResponseFlag.IDENTITY_ERROR
    if isinstance(error, (HandshakeError, PeerIdentityError)):
        return ResponseFlag.TLS_FAILURE
    if isinstance(error, ConnectError) and error.timed_out and error.target.port == HBONE_PORT:
        return ResponseFlag.NETWORK_POLICY
    return ResponseFlag.CONNECT


def reset(sock: socket.socket) -> None:
    """End a connection so that its other end sees a failure (RST), not an orderly end."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    sock.close()
