"""The accepting side of one HBONE connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.limits import SERVER_LIMITS
from ambient.hbone.core.stream import Stream
from ambient.hbone.io.connection import DEFAULT_TIMING, Connection, Timing
from ambient.hbone.io.record import explain
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream

Handler = Callable[[HboneStream], Awaitable[None]]
_DRAIN_PAYLOAD: Final = b"leaving\0"
_MAX_HANDLERS: Final = 2 * SERVER_LIMITS.max_streams
"""Handlers may outlive their streams for a moment; more than these is a peer that only resets."""


class Drain:
    """Ends many server connections gracefully: GOAWAY, then their streams finish."""

    def __init__(self) -> None:
        self.begun = False
        self._connections: set[ServerConnection] = set()

    def begin(self) -> None:
        """From now on no connection takes streams that its peer had not sent yet."""
        self.begun = True
        for connection in list(self._connections):
            connection.graceful()

    def add(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        if self.begun:
            connection.graceful()

    def discard(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)


class _Handlers:
    """The tasks of one connection, one per CONNECT."""

    def __init__(self, handler: Handler, nursery: trio.Nursery) -> None:
        self._handler = handler
        self._nursery = nursery

    def start(self, stream: HboneStream) -> None:
        if len(self._nursery.child_tasks) >= _MAX_HANDLERS:
            stream.reset(ErrorCode.REFUSED_STREAM)
        else:
            self._nursery.start_soon(self._handle, stream)

    async def _handle(self, stream: HboneStream) -> None:
        """Run the handler; an unanswered stream whose peer gave up needs it no longer."""
        with trio.CancelScope() as stream.handler_scope:
            try:
                await self._handler(stream)
            except (MeshError, trio.BrokenResourceError):
                # The handler has told whoever wants to know; other streams must not suffer.
                if not stream.answered:
                    stream.refuse(503)
            finally:
                if not stream.answered:
                    stream.reset(ErrorCode.INTERNAL_ERROR)
                else:
                    stream.release()


class ServerConnection(Connection):
    """Takes streams and gives them to ``handlers``."""

    def __init__(
        self,
        relay: Relay,
        sock: socket.socket,
        tls: ssl.SSLContext,
        handlers: _Handlers,
        timing: Timing,
    ) -> None:
        super().__init__(relay, sock, tls, timing, client=False)
        self._handlers = handlers
        self._leaving = False

    def established(self) -> None:
        self.ready.set()

    def requested(self, stream: Stream) -> None:
        self._handlers.start(HboneStream(self, stream))

    def graceful(self) -> None:
        """GOAWAY in two steps, so that no stream under way is lost (RFC 9113, section 6.8)."""
        if self._handshaking or self._leaving or self.is_closed:
            return
        self._leaving = True
        self.tunnel.announce_leave()
        self.tunnel.ping(_DRAIN_PAYLOAD)
        self.touch()

    def pong(self, payload: bytes) -> None:
        if payload == _DRAIN_PAYLOAD:
            # Everything that the peer sent before it saw the announcement has arrived.
            self.tunnel.leave()
            self.touch()
            self._end_if_drained()
        else:
            super().pong(payload)

    def closed(self, stream: Stream) -> None:
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._leaving and self.tunnel.refusing and not self.tunnel.streams:
            self.end_when_flushed()


async def serve(
    relay: Relay,
    sock: socket.socket,
    tls: ssl.SSLContext,
    handler: Handler,
    drain: Drain | None = None,
    timing: Timing = DEFAULT_TIMING,
) -> None:
    """Serve one accepted TCP connection (which is taken over) until it and its handlers end.

    ``handler`` runs in a task of its own per CONNECT; it must answer the stream. It is cancelled
    when the peer gives up before the answer. Returns after an orderly end. Raises HandshakeError,
    PeerIdentityError, PeerError (the peer broke the protocol), ConnectionLostError.
    """
    drain = drain or Drain()
    error: MeshError | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                handlers = _Handlers(handler, nursery)
                connection = ServerConnection(relay, sock, tls, handlers, timing)
            except OSError as failure:
                raise explain("a peer that left at once", failure) from None
            try:
                connection.start()
                try:
                    await connection.wait_ready()
                    drain.add(connection)
                    await connection.closed_event.wait()
                except MeshError as failure:
                    error = failure
                error = error or connection.error
            finally:
                drain.discard(connection)
                connection.close(connection.lost("this side was stopped"))
    except BaseException:
        sock.close()
        raise
    if error is not None:
        raise error
