"""Captured outbound connections (port 15001): decide the next hop, open it, hand over."""

from __future__ import annotations

import os
import random
import socket

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.hbone.core.connect import ConnectRequest
from ambient.net.io.sockets import connect_in, original_destination, peer_address, tune
from ambient.telemetry.core.access_record import Direction
from ztunnel.core import describe
from ztunnel.core.headers import TRACE_BYTES, request_headers
from ztunnel.core.route import NoRoute, Protocol, Route, route
from ztunnel.io.connections import LiveConnection
from ztunnel.io.failures import ConnectionFailedError, reset
from ztunnel.io.node import Node, PodParts


async def handle(node: Node, pod: PodParts, sock: socket.socket) -> None:
    """Carry one accepted connection to its end."""
    try:
        peer, original = peer_address(sock), original_destination(sock)
    except OSError:
        return  # gone before we got to it
    attempt = describe.attempt(Direction.OUTBOUND, peer, original)
    try:
        client = await node.view.workload_of(pod.info)
        hop = route(node.view.state, client, original, random.random)
        if isinstance(hop, NoRoute):
            raise ConnectionFailedError(hop.reason, hint=hop.hint)
    except MeshError as error:
        node.connections.refuse(attempt, error)
        reset(sock)
        return
    tune(sock, node.keep_alive)
    described = describe.outbound(client, peer, hop)
    with node.connections.open(pod.info, described, hop.protocol) as live:
        live.reason = hop.reason
        try:
            if hop.protocol is Protocol.HBONE:
                await _through_tunnel(node, pod, _Call(sock, peer, client, hop), live)
            else:
                await _plain(node, pod, sock, hop.target, live)
        except (MeshError, OSError):
            reset(sock)  # to the client, a next hop that fails is a connection that failed
            raise


class _Call:
    """One connection on its way into a tunnel."""

    __slots__ = ("client", "hop", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: HostPort, client: Workload, hop: Route) -> None:
        self.sock = sock
        self.peer = peer
        self.client = client
        self.hop = hop


async def _plain(
    node: Node, pod: PodParts, sock: socket.socket, target: HostPort, live: LiveConnection
) -> None:
    mark = node.settings.packet_mark
    upstream = await connect_in(pod.netns, target, mark=mark, keep_alive=node.keep_alive)
    await node.relay.splice(sock, upstream, live.counters)


async def _through_tunnel(node: Node, pod: PodParts, call: _Call, live: LiveConnection) -> None:
    hop, client = call.hop, call.client
    host = hop.service.hostname if hop.service else ""
    request = ConnectRequest(
        authority=hop.authority,
        headers=request_headers(client, call.peer, host, os.urandom(TRACE_BYTES)),
    )

    async def dial() -> socket.socket:
        return await connect_in(pod.netns, hop.target, mark=node.settings.packet_mark)

    tls = await node.certs.client_context(client.identity)
    key = (client.identity, hop.identities, hop.target)
    stream, _ = await pod.pool.connect(key, request, dial, tls, hop.identities)
    live.record.destination.identity = stream.peer
    await stream.couple(call.sock, live.counters)
