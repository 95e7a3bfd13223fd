"""How a connection fails: errors, and the flag that metrics give them."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT
from ambient.api.workload import Workload
from ambient.hbone.core.errors import HandshakeError, PeerRevokedError
from ambient.identity.core.crl import RevokedError
from ambient.identity.core.svid import SvidError
from ambient.identity.core.verify import PeerIdentityError
from ambient.identity.io.ca_client import CaError
from ambient.net.io.sockets import ConnectError
from ambient.policy.core.explain import nearest_miss
from ambient.state.core.mesh import MeshState
from ambient.telemetry.core.metric_names import ResponseFlag
from ztunnel.core.admit import Denial

_NO_IDENTITY = (
    "the client came in plain text, so it has no identity: it is outside the mesh, or its tunnel "
    "is not there yet"
)
_LINGER_NONE = struct.pack("ii", 1, 0)


class ConnectionFailedError(MeshError):
    """A connection that cannot go on, and its ``response_flags``."""

    def __init__(self, message: str, *, hint: str = "", flag: str = ResponseFlag.CONNECT) -> None:
        super().__init__(message, hint=hint)
        self.flag = flag


class DeniedError(ConnectionFailedError):
    """An inbound connection that may not reach its pod."""

    def __init__(self, denial: Denial, nearest: str = "") -> None:
        """``nearest``: of the rules that could have allowed it, how the closest one missed."""
        self.reason = denial.reason + (f"; nearest: {nearest}" if nearest else "")
        if denial.verdict is None:
            super().__init__(self.reason)
        else:
            super().__init__(
                f"connection closed due to policy rejection: {self.reason}",
                hint=_NO_IDENTITY if denial.connection and not denial.connection.source else "",
                flag=ResponseFlag.DENY,
            )
        self.denial = denial
        self.nearest = nearest


def denied(state: MeshState, server: Workload, denial: Denial) -> DeniedError:
    """A policy's denial; where no policy allowed it, with the rule that came closest."""
    if denial.connection is None or denial.verdict is None or denial.verdict.policy:
        return DeniedError(denial)
    return DeniedError(denial, nearest_miss(state.policies_for(server), denial.connection))


def flag_of(error: BaseException) -> str:
    """The ``response_flags`` of a connection that this error ended."""
    if isinstance(error, ConnectionFailedError):
        return error.flag
    if isinstance(error, (RevokedError, PeerRevokedError)):
        return ResponseFlag.CERT_REVOKED
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
