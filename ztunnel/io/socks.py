"""SOCKS 5 on the pod's localhost (port 15080): applications that name their destination themselves.

What they ask for is carried as a captured connection is, and they are told how that went.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import Final

import trio

from ambient.api.address import HostPort, IPAddress
from ambient.api.errors import MeshError
from ambient.hbone.core.errors import ConnectRefused
from ambient.net.io.sockets import ConnectError, peer_address
from ambient.telemetry.core.access_record import Direction
from ztunnel.core import describe
from ztunnel.core.names import Answer, Asker, Zone, resolve
from ztunnel.core.resolution import A_RECORD, AAAA_RECORD
from ztunnel.core.socks5 import Handshake, Reply, SocksError, reply
from ztunnel.io.failures import ConnectionFailedError
from ztunnel.io.node import Node, PodParts
from ztunnel.io.outbound import Client, carry
from ztunnel.io.way import UnresolvedError

HANDSHAKE_S: Final = 10.0
"""For the few bytes until the request is complete; a client on the same machine needs none."""


class SocksClient(Client):
    """An application that waits for an answer to its request."""

    async def connected(self) -> None:
        """Say so; the application's bytes follow. Raises OSError where it is gone."""
        await _send(self.sock, reply(Reply.SUCCEEDED))

    async def failed(self, error: MeshError | OSError) -> None:
        """Say why, and end in good order, so that the answer arrives."""
        await _tell(self.sock, reply(_code(error)))


async def handle(node: Node, pod: PodParts, sock: socket.socket) -> None:
    """Serve one SOCKS connection to its end."""
    try:
        peer = peer_address(sock)
        target = await _request(sock)
    except OSError:
        return  # gone before we got to it
    except SocksError as error:
        unknown = HostPort("0.0.0.0", 0)
        attempt = describe.attempt(Direction.OUTBOUND, peer, unknown)
        node.connections.refuse(attempt, ConnectionFailedError(f"SOCKS: {error}"))
        await _tell(sock, error.answer)
        return
    try:
        target = await _resolved(node, pod, target)
    except MeshError as error:
        node.connections.refuse(describe.attempt(Direction.OUTBOUND, peer, target), error)
        await _tell(sock, reply(_code(error)))
        return
    await carry(node, pod, SocksClient(sock, peer, target))


async def _request(sock: socket.socket) -> HostPort:
    """What the client asks for. Raises SocksError, OSError."""
    handshake = Handshake()
    with trio.move_on_after(HANDSHAKE_S):
        while handshake.target is None:
            answer = handshake.feed(await _receive(sock, handshake.needs))
            if answer:
                await _send(sock, answer)
        return handshake.target
    raise SocksError(f"no request within {HANDSHAKE_S:g} s")


async def _resolved(node: Node, pod: PodParts, target: HostPort) -> HostPort:
    """A name as the pod's own DNS would give it, mesh names first. Raises MeshError."""
    if target.ip is not None:
        return target
    client = await pod.identity.workload()
    asker = Asker(client.namespace, client.network)
    settings = node.settings
    zone = Zone(settings.cluster_domain, settings.prefered_service_namespace, settings.ipv6_enabled)
    found: Sequence[IPAddress] = ()
    ours = False
    for kind in (A_RECORD, AAAA_RECORD):
        answer = resolve(node.view.state, zone, asker, target.host, kind)
        if isinstance(answer, Answer):
            ours = True
            found = found or answer.addresses
    if not ours:
        found = await node.resolver.addresses(target.host)
    if not found:
        raise UnresolvedError(
            f"no ip addresses were resolved for {target.host}",
            hint="does the name exist, in the mesh or in the DNS of the tunnel's node?",
        )
    # IPv4 where there is any: it was asked for first, and every pod can use it.
    families = [ip for ip in found if ip.version == found[0].version]
    return HostPort(str(random.choice(families)), target.port)


def _code(error: MeshError | OSError) -> Reply:
    if isinstance(error, ConnectRefused):
        return Reply.NOT_ALLOWED if error.status == 401 else Reply.REFUSED
    if isinstance(error, ConnectError):
        return Reply.HOST_UNREACHABLE if error.timed_out else Reply.REFUSED
    return Reply.HOST_UNREACHABLE if isinstance(error, UnresolvedError) else Reply.FAILED


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes. Raises OSError, also at the end of the stream."""
    data = b""
    while len(data) < size:
        await trio.lowlevel.wait_readable(sock)
        try:
            more = sock.recv(size - len(data))
        except BlockingIOError:
            continue
        if not more:
            raise ConnectionResetError("the client left")
        data += more
    return data


async def _send(sock: socket.socket, data: bytes) -> None:
    """A few bytes, for which there is always room on a socket that has sent nearly nothing."""
    await trio.lowlevel.wait_writable(sock)
    sock.send(data)


async def _tell(sock: socket.socket, data: bytes) -> None:
    try:
        if data:
            await _send(sock, data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the client is gone, and nobody is left to be told
    finally:
        sock.close()
