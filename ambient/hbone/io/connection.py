"""One HBONE connection under the relay: socket, TLS and tunnel; what both roles have in common."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import trio

from ambient.api.address import HostPort, parse_ip
from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.hbone.core.errors import (
    ConnectionLostError,
    HandshakeError,
    PeerError,
    PeerRevokedError,
)
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.limits import CLIENT_LIMITS, SERVER_LIMITS
from ambient.hbone.core.stream import Stream
from ambient.hbone.core.tunnel import Tunnel
from ambient.hbone.io.record import RecordLayer, explain
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.socket_end import ERR, HUP, IN, OUT
from ambient.identity.core.crl import REVOKED

_DIRECT_BYTES: Final = 64 * 1024
"""From this size on a frame is a send's worth by itself, and copying it costs more than a send."""
_KEEP_ALIVE_PAYLOAD: Final = b"alive?\0\0"


class Timing(NamedTuple):
    """Seconds. The PING times are upstream's (ztunnel.md section 1.4)."""

    handshake_s: float = 10.0
    """TLS, and the peer's SETTINGS on the client side. Upstream can wait for ever."""
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 20.0


DEFAULT_TIMING: Final = Timing()


class Connection:
    """Base of both roles and the listener of its tunnel.

    ``ready`` is set when streams may flow or when it is clear that they never will; ``closed`` when
    everything is over. ``error`` then says why (None: an orderly end).
    """

    def __init__(
        self,
        relay: Relay,
        sock: socket.socket,
        tls: ssl.SSLContext,
        timing: Timing,
        *,
        client: bool,
    ) -> None:
        self.relay = relay
        self.peer: Identity | None = None
        self.peer_address = _address(sock.getpeername())
        self.local_address = _address(sock.getsockname())
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tunnel = Tunnel(self, CLIENT_LIMITS if client else SERVER_LIMITS, client=client)
        self._timing = timing
        self.error: MeshError | None = None
        self.ready = trio.Event()
        self.closed_event = trio.Event()
        self._record = RecordLayer(sock, tls, client=client)
        self._mask = OUT if client else IN
        self._handshaking = True
        self._ending = False
        self._marked = False
        self._peer_deaf = False
        self._pong = trio.Event()
        self._life = trio.CancelScope()
        self._leave_books: Callable[[], None] = lambda: None

    @property
    def is_closed(self) -> bool:
        return self.closed_event.is_set()

    def start(self) -> None:
        """Begin the handshake; needs the relay to run."""
        self.relay.own(self)
        self.relay.watch(self._record.fd, self._mask, self._on_event)

    async def wait_ready(self) -> None:
        """Wait for the handshake; a connection that does not get there is closed.

        Raises HandshakeError, PeerIdentityError, ConnectionLostError.
        """
        timeout_s = self._timing.handshake_s
        try:
            with trio.move_on_after(timeout_s):
                await self.ready.wait()
            if not self.ready.is_set():
                reason = f"no TLS handshake within {timeout_s:g} s"
                self.close(HandshakeError(str(self.peer_address), reason))
        finally:
            if not self.ready.is_set():  # cancelled
                self.close(self.lost("the handshake was cancelled"))
        if self.error is not None:
            raise self.error

    # What the roles add

    def check_peer(self, identity: Identity) -> None:
        """May raise PeerIdentityError."""

    def established(self) -> None:
        """TLS is up."""

    def settled(self) -> None:
        """See TunnelListener."""

    def requested(self, stream: Stream) -> None:
        """See TunnelListener."""

    def closed(self, stream: Stream) -> None:
        """See TunnelListener."""

    def going_away(self) -> None:
        """See TunnelListener."""

    def pong(self, payload: bytes) -> None:
        """See TunnelListener."""
        if payload == _KEEP_ALIVE_PAYLOAD:
            self._pong.set()

    def rested(self) -> None:
        """A PING was answered: the moment to look at idle times."""

    def disconnected(self) -> None:
        """``closed_event`` was just set."""

    # Events

    def _on_event(self, mask: int) -> None:
        try:
            if self._handshaking:
                self._shake_hands()
            else:
                if mask & OUT:
                    self.flush()
                if mask & (IN | ERR | HUP) and not self.is_closed:
                    self._read(mask)
        except OSError as error:
            self.close(self._explain(error))
        except PeerError as violation:
            self._send_last_words()
            self.close(violation)

    def _shake_hands(self) -> None:
        try:
            wait_for = self._record.handshake()
            if wait_for:
                self._set_mask(wait_for)
                return
            self.peer = self._record.identity(str(self.peer_address))
            self.check_peer(self.peer)
            reporter = "source" if self.tunnel.client else "destination"
            self._leave_books = self._record.admit(reporter, self._revoked)
        except MeshError as error:
            self.close(error)
            return
        self._handshaking = False
        self._set_mask(IN)
        self.tunnel.start()
        self.established()
        self.relay.spawn(self._keep_alive, f"hbone keep-alive {self.peer_address}")
        self.touch()

    def _read(self, mask: int) -> None:
        relay = self.relay
        size = self._record.read_into(relay.view)
        if size > 0:
            self.tunnel.receive(relay.view[:size], relay.now_s)
            if self.tunnel.out:
                self.touch()
            if self._record.ended and not self.is_closed:
                self._peer_left()
        elif size == 0:
            self._peer_left()
        elif mask & (ERR | HUP):
            # Nothing to read and hung up: without this the event would come back for ever.
            self.close(self.lost("the connection broke"))

    def _peer_left(self) -> None:
        if self.tunnel.streams or not self.ready.is_set():
            self.close(self.lost("the peer closed the connection"))
        else:
            self.close(None)

    def _explain(self, error: OSError) -> MeshError:
        if not self.ready.is_set():
            # A TLS 1.3 client learns only here that the server refused its certificate.
            return explain(str(self.peer_address), error)
        return self.lost(error.strerror or str(error))

    def lost(self, reason: str) -> ConnectionLostError:
        who = self.peer or "an unknown peer"
        message = f"the HBONE connection with {who} at {self.peer_address} is gone: {reason}"
        return ConnectionLostError(message, ErrorCode.CONNECT_ERROR)

    def _revoked(self) -> None:
        self.close(PeerRevokedError(f"connection closed: {REVOKED}", ErrorCode.CONNECT_ERROR))

    # Sending

    def touch(self) -> None:
        """There is output: send it at the end of the relay's turn."""
        if not self._marked:
            self._marked = True
            self.relay.flush_later(self)

    def send_frame(self, view: memoryview) -> None:
        """Queue a frame; a large one with nothing in front of it is sent from where it lies."""
        out = self.tunnel.out
        if len(view) >= _DIRECT_BYTES and not out and not self._peer_deaf:
            try:
                if self._record.write(view):
                    return
            except OSError:
                self._stop_sending()
                return
        out += view
        if not self._marked:
            self._marked = True
            self.relay.flush_later(self)

    def _stop_sending(self) -> None:
        """The peer takes nothing any more.

        What it sent before it left is still to be read: answers, a GOAWAY, or the alert that says
        why. The end of file behind it brings the close.
        """
        self._peer_deaf = True
        self.tunnel.out.clear()
        self._set_mask(IN)

    def flush(self) -> None:
        """Send what waits, in one TLS write. Called by the relay."""
        self._marked = False
        if self._handshaking or self.is_closed:
            return
        tunnel = self.tunnel
        if self._peer_deaf:
            tunnel.out.clear()
            return
        out = tunnel.out
        if out:
            try:
                sent = self._record.write(out)
            except OSError:
                self._stop_sending()
                return
            if sent < len(out):
                del out[:sent]
                self._set_mask(IN | OUT)
                return
            out.clear()
        if self._mask != IN:
            self._set_mask(IN)
        if tunnel.congested:
            tunnel.congested = False
            tunnel.unblock()
        if self._ending and not tunnel.out:
            self.close(None)

    def _send_last_words(self) -> None:
        with suppress(OSError):  # the GOAWAY is a courtesy
            self._record.write(self.tunnel.out)

    def _set_mask(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self.relay.rewatch(self._record.fd, mask)

    # The end

    def end_when_flushed(self) -> None:
        """Orderly end, when no stream is left."""
        self._ending = True
        self.touch()

    def close(self, error: MeshError | None) -> None:
        """End at once; every stream fails with ``error`` (or "closed")."""
        if self.is_closed:
            return
        self.error = error
        self.closed_event.set()
        self.ready.set()
        self._life.cancel()
        self._leave_books()
        self.relay.disown(self)
        self.relay.unwatch(self._record.fd)
        loss = error if isinstance(error, ConnectionLostError) else None
        self.tunnel.lose(loss or self.lost(str(error) if error else "it was closed"))
        self._record.say_goodbye()
        self.relay.close_later(self._record.sock)
        self.disconnected()

    async def _keep_alive(self) -> None:
        """PING so that a dead peer is noticed; runs in the relay until the connection closes."""
        _, interval_s, timeout_s = self._timing
        with self._life:
            while True:
                await trio.sleep(interval_s)
                self._pong = trio.Event()
                self.tunnel.ping(_KEEP_ALIVE_PAYLOAD)
                self.touch()
                with trio.move_on_after(timeout_s):
                    await self._pong.wait()
                if not self._pong.is_set():
                    self.close(self.lost(f"no answer to PING within {timeout_s:g} s"))
                    return
                self.rested()


def _address(name: tuple[str, int] | str) -> HostPort:
    """A socket address; IPv4-mapped IPv6 becomes IPv4. Unix sockets (double HBONE) have none."""
    if isinstance(name, str | bytes):
        return HostPort("0.0.0.0", 0)
    ip = parse_ip(name[0])
    return HostPort(str(ip) if ip is not None else name[0], name[1])
