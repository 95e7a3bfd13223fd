"""HBONE in: accepts tunnels, finds out whom each CONNECT is for and what it speaks."""

from __future__ import annotations

import math
import socket
import ssl
from typing import Final, Protocol

import trio

from ambient.api.address import parse_ip
from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.hbone.core.errors import HboneError
from ambient.hbone.core.frames import PREFACE
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.server import Drain, serve
from ambient.hbone.io.stream import HboneStream
from ambient.net.io.scarcity import is_scarcity
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.dispatch import Destination, Refusal, dispatch, sniff
from waypoint.core.dispatch import Protocol as Speaks
from waypoint.core.message import Peer
from waypoint.io.duplex import READ_BYTES
from waypoint.io.exchange import Exchanges
from waypoint.io.http1_server import FIRST_REQUEST_S, Http1Server
from waypoint.io.http2_server import Http2Server
from waypoint.io.raw import RawConnection
from waypoint.io.service import Service

BACKLOG: Final = 1024
REST_S: Final = 0.1
"""Pause of the accept loop while the process has no more file descriptors."""
SAID_AGAIN_S: Final = 10.0

log = get_logger("waypoint")


class Tls(Protocol):
    """The part of a certificate store that a server needs."""

    async def server_context(self, identity: Identity) -> ssl.SSLContext:
        """The context that shows this identity's certificate and asks for the client's."""
        ...


def bind(host: str, port: int, *, share: bool = False) -> trio.socket.SocketType:
    """The listening socket; ``host`` ``""`` means every address, of both families if there are two.
    With ``share``, other workers listen on the same port.

    Raises MeshError where the port cannot be bound.
    """
    dual = host == "" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        sock = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual, reuse_port=share
        )
    except OSError as error:
        raise MeshError(
            f"cannot listen on port {port}: {error.strerror}",
            hint="does another program use the port? `ss -ltnp` shows it",
        ) from None
    return trio.socket.from_stdlib_socket(sock)


class Listener:
    """Serves the tunnels of one listening socket."""

    def __init__(
        self,
        service: Service,
        relay: Relay,
        tls: Tls,
        identity: Identity,
        sniff_timeout_s: float,
    ) -> None:
        self._service = service
        self._relay = relay
        self._tls = tls
        self._identity = identity
        self._sniff_timeout_s = sniff_timeout_s
        self.draining = Drain()
        self._silent_until_s = -math.inf

    async def run(
        self,
        sock: trio.socket.SocketType,
        connections: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; tunnels live in ``connections`` and outlast this task."""
        with sock:
            task_status.started()
            while True:
                try:
                    client, _ = await sock.accept()
                except OSError as error:
                    if is_scarcity(error):  # those who wait are served when others have ended
                        self._complain(error)
                        await trio.sleep(REST_S)
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections.start_soon(self._tunnel, client)

    def _complain(self, error: OSError) -> None:
        if trio.current_time() >= self._silent_until_s:
            self._silent_until_s = trio.current_time() + SAID_AGAIN_S
            log.warning(Event.ACCEPT_PAUSED, error=error.strerror)

    async def _tunnel(self, client: trio.socket.SocketType) -> None:
        """One TCP connection with all its CONNECTs."""
        try:
            peer = client.getpeername()[:2]
            tls = await self._tls.server_context(self._identity)
            plain = socket.socket(fileno=client.detach())
            plain.setblocking(False)
        except (MeshError, OSError) as error:
            client.close()
            log.warning(Event.CONN_FAILED, error=str(error))
            return
        try:
            await serve(self._relay, plain, tls, self._stream, self.draining)
        except HboneError as error:
            log.info(Event.CONN_FAILED, peer=f"{peer[0]}:{peer[1]}", error=str(error))
        except MeshError as error:
            log.warning(Event.CONN_FAILED, peer=f"{peer[0]}:{peer[1]}", error=str(error))

    async def _stream(self, stream: HboneStream) -> None:
        """One CONNECT."""
        try:
            await self._serve(stream)
        except Exception:  # one connection must not end the others
            log.exception(Event.CONN_CRASHED, authority=stream.request.authority)
            stream.reset()

    async def _serve(self, stream: HboneStream) -> None:
        service = self._service
        ip = parse_ip(stream.peer_address[0])
        assert ip is not None, stream.peer_address
        peer = Peer(stream.peer, ip, stream.peer_address[1])
        to = dispatch(stream.request.authority, service.directory, service.own, service.network)
        if peer.identity is None or peer.identity.trust_domain != self._identity.trust_domain:
            to = Refusal(403, f"{peer.identity} is not of this mesh")
        if isinstance(to, Refusal):
            stream.refuse(to.status)
            log.warning(
                Event.CONNECT_REFUSED,
                authority=stream.request.authority,
                peer=str(peer.identity),
                status=to.status,
                reason=to.reason,
            )
            return
        stream.accept()
        await self._speak(stream, peer, to)

    async def _speak(self, stream: HboneStream, peer: Peer, to: Destination) -> None:
        first, speaks = b"", to.protocol
        try:
            if speaks is Speaks.SNIFF:
                first, speaks = await self._sniff(stream)
            elif speaks is Speaks.HTTP:
                first, speaks = await self._which_http(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client went away before it said anything
        exchanges = Exchanges(self._service, peer, to)
        if speaks is Speaks.HTTP1:
            answer, refuse, limits = exchanges.serve, exchanges.refused, exchanges.limits
            await Http1Server(self._service, stream, answer, refuse, limits).run(first)
        elif speaks is Speaks.HTTP2:
            await Http2Server(self._service, stream, exchanges.serve).run(first)
        else:
            await RawConnection(self._service, stream, peer, to).run(first)

    async def _which_http(self, stream: HboneStream) -> tuple[bytes, Speaks]:
        """The first bytes, and the version of HTTP: 2 if they are its preface.

        While we drain, a client that says nothing ends.
        """
        first = b""
        with self._service.idle(FIRST_REQUEST_S):
            while PREFACE.startswith(first) and len(first) < len(PREFACE):
                data = await stream.receive_some(READ_BYTES)
                if not data:
                    break
                first += data
        http2 = first[: len(PREFACE)] == PREFACE
        return first, Speaks.HTTP2 if http2 else Speaks.HTTP1

    async def _sniff(self, stream: HboneStream) -> tuple[bytes, Speaks]:
        """The first bytes, and what they mean; a client that stays silent waits for the server."""
        first = b""
        with trio.move_on_after(self._sniff_timeout_s):
            while True:
                data = await stream.receive_some(READ_BYTES)
                first += data
                found = sniff(first) if data else Speaks.TCP
                if found is not None:
                    return first, found
        return first, Speaks.TCP
