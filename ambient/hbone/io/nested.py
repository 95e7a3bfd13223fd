"""A second HBONE connection inside a stream of another one (double HBONE).

The gateway of another network sees only the outer CONNECT; what runs inside is TLS between the
two ends. A connected pair of sockets joins the layers: the relay moves the bytes between the outer
stream and one socket, and the inner connection lives on the other as it would on TCP.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial

from ambient.hbone.core.connect import ConnectRequest, ConnectResponse
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.core.proxy_status import refusal
from ambient.hbone.io.client import Allowed, ClientConnection
from ambient.hbone.io.connection import DEFAULT_TIMING, Timing
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream


async def connect_inside(
    relay: Relay,
    outer: HboneStream,
    request: ConnectRequest,
    tls: ssl.SSLContext,
    allowed: Allowed,
    timing: Timing = DEFAULT_TIMING,
) -> tuple[HboneStream, ConnectResponse]:
    """One CONNECT through a connection of its own inside ``outer``, which is taken over.

    The inner connection serves this one stream and ends with it, and the outer stream with both.
    Raises HandshakeError, PeerIdentityError, ConnectRefused, HboneStreamError.
    """
    near, far = socket.socketpair()
    relay.spawn(partial(_carry, outer, near), name=f"double HBONE {request.authority}")
    connection = ClientConnection(relay, far, tls, allowed, timing)
    connection.peer_address = outer.peer_address
    connection.start()
    await connection.wait_ready()
    connection.max_streams = 1
    stream = connection.open(request)
    connection.leave()
    try:
        response = await stream.response()
    except BaseException:
        stream.reset()
        raise
    if response.status != 200:
        stream.reset()
        raise refusal(request.authority, response)
    return stream, response


async def _carry(outer: HboneStream, near: socket.socket) -> None:
    """Outlives the caller, so an error ends here; the inner connection sees it as its end."""
    try:
        await outer.couple(near, Counters())
    except HboneStreamError:
        near.close()
