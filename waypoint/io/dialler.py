"""Opens streams to endpoints: through the mesh's tunnel where there is one, else plain TCP."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final, Protocol

import trio

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT
from ambient.api.spiffe import Identity
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.io.pool import Pool
from ambient.hbone.io.stream import HboneStream
from ambient.net.io.scarcity import is_scarcity
from waypoint.core.connection_pool import Keepalive
from waypoint.core.host import Target
from waypoint.core.objects import UnusableError
from waypoint.core.opening import (
    MAX_ANSWER,
    Opening,
    OpeningRefusedError,
    ProxyTunnel,
    check_answer,
    connect_request,
    header,
    read_proxy_protocol,
    read_tunnel,
)
from waypoint.core.reset import Reset
from waypoint.core.tls_settings import read_tls
from waypoint.core.traffic_policy import DEFAULT_SETTINGS, ClusterSettings
from waypoint.io.credentials import Credentials
from waypoint.io.duplex import Duplex, drop_now
from waypoint.io.plain_stream import PlainStream
from waypoint.io.post_tunnel import open_tunnel
from waypoint.io.tls_origination import context_of, secure
from waypoint.io.upstream_stream import UpstreamResetError

KEEP_ALIVE: Final = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 2,
    socket.TCP_USER_TIMEOUT: 30_000,
}
"""An endpoint that vanished without a word is noticed within half a minute (s; the last in ms)."""


DEFAULT_OPENING: Final = Opening()


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
        credentials: Credentials | None = None,
    ) -> None:
        self._pool = pool
        self._tls = tls
        self._identity = identity
        self._connect_timeout_s = connect_timeout_s
        self._hbone_port = hbone_port
        self.credentials = credentials or Credentials()

    async def __call__(
        self,
        target: Target,
        settings: ClusterSettings = DEFAULT_SETTINGS,
        opening: Opening = DEFAULT_OPENING,
    ) -> Duplex:
        """A new stream to the endpoint's application. Raises UpstreamResetError."""
        pool = settings.pool
        with trio.move_on_after(pool.connect_timeout_s or self._connect_timeout_s):
            try:
                tls = read_tls(settings.tls)
                version = read_proxy_protocol(settings.proxy_protocol)
                through = read_tunnel(settings.tunnel) if opening.raw else None
                if tls is not None:
                    context = context_of(tls, opening.alpn, await self.credentials.material(tls))
                if target.hbone:
                    opened: HboneStream | PlainStream = await self._tunnel(target)
                else:
                    sock = await connect(await resolved(target.address), pool.keepalive)
                    opened = PlainStream(plain(sock), self._pool.relay)
                found: Duplex = opened
                if version:
                    await opened.send_all(header(version, opening.ends))
                if tls is not None:
                    found = await secure(opened, tls, context, _server_name(target))
                if through is not None and through.post:
                    found = await open_tunnel(found, through)
                elif through is not None:
                    await _connect_through(found, through)
                return found
            except (MeshError, OSError, UnusableError, trio.BrokenResourceError) as error:
                # The endpoint is not to blame for what we lack.
                ours = is_scarcity(error)
                reset = Reset.OVERFLOW if ours else Reset.CONNECTION_FAILURE
                raise UpstreamResetError(reset, _words(error)) from None
        raise UpstreamResetError(Reset.CONNECTION_TIMEOUT)

    async def _tunnel(self, target: Target) -> HboneStream:
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


async def _connect_through(stream: Duplex, tunnel: ProxyTunnel) -> None:
    """Have a proxy connect. Not a byte is read beyond its answer. Raises OSError."""
    answer = bytearray()
    try:
        await stream.send_all(connect_request(tunnel))
        while not answer.endswith(b"\r\n\r\n"):
            byte = await stream.receive_some(1)
            if not byte or len(answer) >= MAX_ANSWER:
                raise OpeningRefusedError("the proxy gave no whole answer to CONNECT")
            answer += byte
        check_answer(bytes(answer))
    except BaseException:
        drop_now(stream)
        raise


def _server_name(target: Target) -> str:
    """Whom TLS expects unless it is told: the service, else the endpoint's own name."""
    services = target.workload.services
    return next((key.hostname for key in services), target.workload.hostname)


async def resolved(address: HostPort) -> HostPort:
    """An endpoint that is a name, as one of its addresses. Raises OSError."""
    if address.ip is not None:
        return address
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return HostPort(str(found[0][4][0]), address.port)


def _words(error: Exception) -> str:
    """The cause in one line; that of a connection in Envoy's words, without the address."""
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return (error.strerror or str(error)).lower()
    if isinstance(error, OSError) and error.errno:
        return f"delayed connect error: {os.strerror(error.errno)}"
    return str(error)


async def connect(address: HostPort, keepalive: Keepalive | None = None) -> trio.socket.SocketType:
    """A TCP connection to an IP address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (KEEP_ALIVE | _options(keepalive)).items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        await sock.connect((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _options(keepalive: Keepalive | None) -> dict[int, int]:
    """What is configured; 0 leaves our own values."""
    if keepalive is None:
        return {}
    wanted = {
        socket.TCP_KEEPCNT: keepalive.probes,
        socket.TCP_KEEPIDLE: keepalive.time_s,
        socket.TCP_KEEPINTVL: keepalive.interval_s,
    }
    return {option: value for option, value in wanted.items() if value}


def plain(sock: trio.socket.SocketType) -> socket.socket:
    """The same connection as a non-blocking socket of the standard library, for the relay."""
    found = socket.socket(fileno=sock.detach())
    found.setblocking(False)
    return found
