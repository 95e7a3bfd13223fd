"""The dialling side of one HBONE connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Collection

import trio

from ambient.api.spiffe import Identity
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.stream import Stream
from ambient.hbone.io.connection import DEFAULT_TIMING, Connection, Timing
from ambient.hbone.io.record import explain
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream
from ambient.identity.core.verify import PeerIdentityError

Allowed = Callable[[Identity], bool] | Collection[Identity]
"""Who may be at the other end: a set of identities, or a function that judges one."""


class ClientConnection(Connection):
    """Opens streams. ``room`` is how many more fit now."""

    def __init__(
        self,
        relay: Relay,
        sock: socket.socket,
        tls: ssl.SSLContext,
        allowed: Allowed,
        timing: Timing,
    ) -> None:
        super().__init__(relay, sock, tls, timing, client=True)
        self._allowed = allowed
        self.generation: int = getattr(tls, "generation", 0)
        self.max_streams = 0
        self.idle_s = 0.0
        self.on_disconnect: Callable[[ClientConnection], None] = lambda connection: None
        self._idle_since_s = trio.current_time()
        self._leaving = False

    @property
    def room(self) -> int:
        if self.is_closed or self._ending:
            return 0
        return min(self.max_streams - len(self.tunnel.streams), self.tunnel.room)

    def open(self, request: ConnectRequest) -> HboneStream:
        """Send a CONNECT; only while there is ``room``."""
        stream = HboneStream(self, self.tunnel.open(request))
        self.touch()
        return stream

    def check_peer(self, identity: Identity) -> None:
        allowed = self._allowed
        if not (allowed(identity) if callable(allowed) else identity in allowed):
            wanted = "" if callable(allowed) else ", not " + " or ".join(map(str, allowed))
            raise PeerIdentityError(
                f"the peer at {self.peer_address} is {identity}{wanted}",
                hint="did the address move to another workload? The mesh state may be stale",
            )

    def settled(self) -> None:
        self.ready.set()

    def closed(self, stream: Stream) -> None:
        if not self.tunnel.streams:
            self._idle_since_s = trio.current_time()
            if self.tunnel.refusing or self._leaving:
                self.end_when_flushed()

    def going_away(self) -> None:
        if not self.tunnel.streams:
            self.end_when_flushed()

    def leave(self) -> None:
        """Take no more streams and close after the last one."""
        self._leaving = True
        self.tunnel.refusing = True
        if not self.tunnel.streams:
            self.end_when_flushed()

    def rested(self) -> None:
        idle_s = trio.current_time() - self._idle_since_s
        if not self.tunnel.streams and idle_s >= self.idle_s:
            self.leave()

    def disconnected(self) -> None:
        self.on_disconnect(self)


async def connect(
    relay: Relay,
    sock: socket.socket,
    tls: ssl.SSLContext,
    allowed: Allowed,
    timing: Timing = DEFAULT_TIMING,
) -> ClientConnection:
    """Handshake on a connected socket (which is taken over, also on failure).

    Raises HandshakeError, PeerIdentityError.
    """
    try:
        connection = ClientConnection(relay, sock, tls, allowed, timing)
    except OSError as error:
        sock.close()
        raise explain("a peer that left at once", error) from None
    connection.start()
    await connection.wait_ready()
    return connection
