"""Which connection a new stream takes: one per key while it has room, dialled once per need."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Hashable
from typing import NamedTuple

import trio

from ambient.hbone.core.connect import ConnectRequest, ConnectResponse
from ambient.hbone.core.errors import ConnectionLostError, HboneStreamError
from ambient.hbone.core.proxy_status import refusal
from ambient.hbone.io.client import Allowed, ClientConnection, connect
from ambient.hbone.io.connection import DEFAULT_TIMING, Timing
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream

Dial = Callable[[], Awaitable[socket.socket]]
"""Makes a connected, plain TCP socket; raises OSError or MeshError."""


class PoolSettings(NamedTuple):
    """Defaults are ztunnel's."""

    max_streams: int = 100
    """Streams on one connection; Envoy waypoints take no more than these."""
    idle_s: float = 300.0
    """A connection without streams is closed after this time (looked at every 10 s)."""
    timing: Timing = DEFAULT_TIMING
    attempts: int = 3
    """How often ``connect`` sends a request that peers did not take (GOAWAY, REFUSED_STREAM, or a
    connection that broke before the answer)."""


class _Attempt:
    """A dial under way; whoever needs the same connection waits for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None


class _Entry:
    """The connections of one key."""

    def __init__(self) -> None:
        self.connections: list[ClientConnection] = []
        self.dialling: _Attempt | None = None

    def pick(self, generation: int = 0) -> ClientConnection | None:
        """The oldest connection with room, so that later ones fall idle and end.

        Connections that were opened with an older certificate than ``generation`` take no more
        streams and close after their last one.
        """
        for connection in self.connections[:]:
            if connection.generation < generation and connection.room > 0:
                connection.leave()
        return next((c for c in self.connections if c.room > 0), None)


class Pool:
    """Connections by key. The key must name everything that matters for sharing: our identity, the
    peer's address and the identities allowed there."""

    def __init__(self, relay: Relay, settings: PoolSettings | None = None) -> None:
        self.relay = relay
        self._settings = settings or PoolSettings()
        self._entries: dict[Hashable, _Entry] = {}

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(len(entry.connections) for entry in self._entries.values())

    async def open(
        self,
        key: Hashable,
        request: ConnectRequest,
        dial: Dial,
        tls: ssl.SSLContext,
        allowed: Allowed,
    ) -> HboneStream:
        """A stream whose CONNECT is on its way; the caller awaits its ``response``.

        Raises HandshakeError, PeerIdentityError, and what ``dial`` raises. When one of several
        waiting callers' dial fails, all of them fail with its error; when it is cancelled, the next
        one dials.
        """
        while True:  # no checkpoint where there is room: the response is waited for anyway
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            connection = entry.pick(getattr(tls, "generation", 0))
            if connection is not None:
                return connection.open(request)
            if entry.dialling is None:
                await self._dial(key, entry, dial, tls, allowed)
                continue
            attempt = entry.dialling
            await attempt.done.wait()
            if attempt.error is not None:
                raise attempt.error.with_traceback(None)

    async def connect(
        self,
        key: Hashable,
        request: ConnectRequest,
        dial: Dial,
        tls: ssl.SSLContext,
        allowed: Allowed,
    ) -> tuple[HboneStream, ConnectResponse]:
        """``open``, wait for status 200, and try again where a peer did not take the request.

        Raises what ``open`` raises, ConnectRefused, HboneStreamError.
        """
        for attempt in range(1, self._settings.attempts + 1):
            stream = await self.open(key, request, dial, tls, allowed)
            try:
                response = await stream.response()
            except HboneStreamError as error:
                # Nothing of the application was sent, so a request on a tunnel that turns out to be
                # dead (its peer was replaced and nobody told us) may go out again on a new one.
                stale = isinstance(error, ConnectionLostError)
                if not (error.retryable or stale) or attempt == self._settings.attempts:
                    raise
                continue
            except BaseException:
                stream.reset()
                raise
            if response.status == 200:
                return stream, response
            stream.reset()
            raise refusal(request.authority, response)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _dial(
        self, key: Hashable, entry: _Entry, dial: Dial, tls: ssl.SSLContext, allowed: Allowed
    ) -> None:
        attempt = entry.dialling = _Attempt()
        try:
            sock = await dial()
            timing = self._settings.timing
            connection = await connect(self.relay, sock, tls, allowed, timing)
            connection.max_streams = self._settings.max_streams
            connection.idle_s = self._settings.idle_s
            connection.on_disconnect = lambda gone: self._forget(key, gone)
            entry.connections.append(connection)
            if connection.is_closed:
                self._forget(key, connection)
        except Exception as error:
            attempt.error = error
            raise
        finally:
            entry.dialling = None
            attempt.done.set()
            self._drop_if_empty(key, entry)

    def _forget(self, key: Hashable, connection: ClientConnection) -> None:
        entry = self._entries.get(key)
        if entry is not None and connection in entry.connections:
            entry.connections.remove(connection)
            self._drop_if_empty(key, entry)

    def _drop_if_empty(self, key: Hashable, entry: _Entry) -> None:
        if not entry.connections and entry.dialling is None:
            self._entries.pop(key, None)

    def release(self) -> None:
        """Every connection closes after its last stream; new streams get new connections."""
        for entry in list(self._entries.values()):
            for connection in list(entry.connections):
                connection.leave()

    def close(self) -> None:
        """Close every connection now; their streams fail."""
        for entry in list(self._entries.values()):
            for connection in list(entry.connections):
                connection.close(None)
