"""Connections to endpoints: tunnelled where the endpoint has HBONE, plain where not, and kept.

A kept connection has carried whole exchanges only. One that stays idle is watched, so that a
server's close is noticed when it happens and not by the next request.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT
from ambient.api.spiffe import Identity
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.io.pool import Pool
from waypoint.core.balance import Target
from waypoint.io.duplex import READ_BYTES, STREAM_ERRORS, Duplex, drop

WATCH_AFTER_S: Final = 0.5
"""Connections that are idle for longer are watched; busy ones are spared the task."""
IDLE_S: Final = 60.0
"""How long a connection is kept without an exchange."""
MAX_IDLE: Final = 128
"""Kept connections for each endpoint."""

Key = tuple[str, int]


class UpstreamError(Exception):
    """No connection to an endpoint came about; the text is the cause."""


class Connection:
    """A connection to an endpoint. ``reused`` says that it has carried exchanges before."""

    def __init__(self, target: Target, stream: Duplex) -> None:
        self.target = target
        self.stream = stream
        self.reused = False
        self.idle_since = 0.0
        self.closed = False
        self.watch: trio.CancelScope | None = None
        self.watched: trio.Event | None = None

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(data)

    async def receive(self) -> bytes:
        """Some bytes; empty at the end."""
        return bytes(await self.stream.receive_some(READ_BYTES))


Dial = Callable[[Target], Awaitable[Duplex]]
"""Opens a new stream to an endpoint. Raises UpstreamError."""


class Upstreams:
    """The connections to all endpoints; ``run`` has to be running."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._idle: dict[Key, list[Connection]] = {}
        self._active: dict[Key, int] = {}
        self._some_idle = trio.Event()

    def active(self, key: Key) -> int:
        """How many exchanges and connections an endpoint has at the moment."""
        return self._active.get(key, 0)

    async def acquire(self, target: Target, *, fresh: bool = False) -> Connection:
        """A kept connection, else (or where ``fresh``) a new one. Raises UpstreamError.

        Whoever acquires one either releases or discards it.
        """
        self._active[target.key] = self.active(target.key) + 1
        try:
            connection = None if fresh else await self._kept(target.key)
            if connection is None:
                connection = Connection(target, await self._dial(target))
        except BaseException:
            self._done(target.key)
            raise
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection whose exchange is complete."""
        key = connection.target.key
        self._done(key)
        connection.reused = True
        connection.idle_since = trio.current_time()
        self._idle.setdefault(key, []).append(connection)
        self._some_idle.set()

    async def discard(self, connection: Connection) -> None:
        """Give up a connection."""
        self._done(connection.target.key)
        await drop(connection.stream)

    def _done(self, key: Key) -> None:
        left = self._active[key] - 1
        if left:
            self._active[key] = left
        else:
            del self._active[key]

    async def _kept(self, key: Key) -> Connection | None:
        """The connection that was used last: the likeliest to be alive."""
        while kept := self._idle.get(key):
            connection = kept.pop()
            if connection.watch is None or connection.watched is None:
                return connection
            connection.watch.cancel()
            await connection.watched.wait()
            if not connection.closed:
                connection.watch = connection.watched = None
                return connection
        return None

    async def run(self) -> None:
        """Watch and age idle connections until cancelled; then close them."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._some_idle.wait()
                    await trio.sleep(WATCH_AFTER_S)
                    await self._look_after_idle(nursery)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            _, kept = self._idle.popitem()
            for connection in kept:
                await drop(connection.stream)

    async def _look_after_idle(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        old: list[Connection] = []
        for key, kept in list(self._idle.items()):
            fresh = [c for c in kept[-MAX_IDLE:] if now - c.idle_since < IDLE_S]
            old += [connection for connection in kept if connection not in fresh]
            kept[:] = fresh
            if not kept:
                del self._idle[key]
            for connection in kept:
                if connection.watch is None and now - connection.idle_since >= WATCH_AFTER_S:
                    connection.watch, connection.watched = trio.CancelScope(), trio.Event()
                    nursery.start_soon(
                        self._watch, connection, connection.watch, connection.watched
                    )
        if not self._idle:
            self._some_idle = trio.Event()
        for connection in old:
            if connection.watch is not None and connection.watched is not None:
                connection.watch.cancel()
                await connection.watched.wait()
            await drop(connection.stream)

    async def _watch(
        self, connection: Connection, scope: trio.CancelScope, done: trio.Event
    ) -> None:
        """Wait for the server to close, or to speak out of turn; both end the connection."""
        try:
            with scope:
                with contextlib.suppress(*STREAM_ERRORS):
                    await connection.stream.receive_some(1)
                connection.closed = True
                kept = self._idle.get(connection.target.key, [])
                if connection in kept:
                    kept.remove(connection)
                await drop(connection.stream)
        finally:
            done.set()


class Tls(Protocol):
    """The part of a certificate store that a client needs."""

    async def client_context(self, identity: Identity) -> ssl.SSLContext:
        """The context that shows this identity's certificate."""
        ...


class Dialler:
    """Opens streams: HBONE through the pool with the waypoint's identity, or plain TCP."""

    def __init__(
        self,
        pool: Pool,
        tls: Tls,
        identity: Identity,
        connect_timeout_s: float,
        hbone_port: int = HBONE_PORT,
    ) -> None:
        self._pool = pool
        self._tls = tls
        self._identity = identity
        self._connect_timeout_s = connect_timeout_s
        self._hbone_port = hbone_port

    async def __call__(self, target: Target) -> Duplex:
        """A new stream to the endpoint's application. Raises UpstreamError."""
        with trio.move_on_after(self._connect_timeout_s):
            try:
                if target.hbone:
                    return await self._tunnel(target)
                return trio.SocketStream(await connect(target.address))
            except (MeshError, OSError) as error:
                raise UpstreamError(_words(error)) from None
        raise UpstreamError("connection timeout")

    async def _tunnel(self, target: Target) -> Duplex:
        """A CONNECT to the pod, which has to prove that it runs as its service account."""
        pod = HostPort(target.address.host, self._hbone_port)
        peer = target.workload.identity

        async def dial() -> socket.socket:
            return plain(await connect(pod))

        stream, _ = await self._pool.connect(
            (pod, peer),
            ConnectRequest(str(target.address)),
            dial,
            await self._tls.client_context(self._identity),
            frozenset((peer,)),
        )
        return stream


def _words(error: Exception) -> str:
    """The cause in one line; an OSError without its number."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)


async def connect(address: HostPort) -> trio.socket.SocketType:
    """A TCP connection to an IP address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await sock.connect((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def plain(sock: trio.socket.SocketType) -> socket.socket:
    """The same connection as a non-blocking socket of the standard library, for the relay."""
    found = socket.socket(fileno=sock.detach())
    found.setblocking(False)
    return found
